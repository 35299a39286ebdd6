import type { MemoryNeed } from "../../src/core/memory.ts";
import type { GpuPlan } from "../../src/core/plan/types.ts";
import type { CardOffer } from "./offers.ts";

export interface FitQuestion {
  need: MemoryNeed | undefined;
  /** Words for the KV cache: `4 sessions of 4096 tokens`. */
  sessions: string;
  gpu: Pick<GpuPlan, "mode" | "count" | "instancesPerPod" | "resource" | "resourceClaimTemplateName">;
  /** One process computes on all cards of its pod (llama.cpp), or on one of them (hf-cuda, in turns). */
  spansCards: boolean;
  /** Undefined: the operator may not look. */
  offers: readonly CardOffer[] | undefined;
}

export interface Fit {
  /** Undefined: a size is not known. */
  fits: boolean | undefined;
  /** The numbers, in words. */
  message: string;
}

/** Whether what an instance takes has room on some card that nodes offer. Pure, and never No by a number that is not known. */
export function judgeFit({ need, sessions, gpu, spansCards, offers }: FitQuestion): Fit {
  const { mode, count, instancesPerPod: packed } = gpu;
  const what = gpu.resource ?? `the claim of ${gpu.resourceClaimTemplateName}`;
  if (!need) return { fits: undefined, message: "the model's size is not known: give model.cache, or model.memoryMiB" };
  const known = (offers ?? []).filter(({ memory }) => memory !== undefined);
  const largest = known.toSorted((a, b) => (b.memory ?? 0) - (a.memory ?? 0))[0];
  const parts = [
    `weights ${gib(need.weights)}`,
    need.kv === undefined ? "KV cache not known" : `KV cache of ${sessions} ${gib(need.kv)}`,
    `CUDA context ${gib(need.context)}`,
  ];
  const takes = `an instance takes ${gib(need.total)} GiB (${parts.join(", ")})`;
  if (largest?.memory === undefined) {
    const who = gpu.resource === undefined ? "ResourceSlices" : "nodes";
    const why = offers
      ? `no node says how much memory ${what} has`
      : `this operator may not read ${who}, which say how much memory ${what} has`;
    return { fits: undefined, message: `${takes}; ${why}` };
  }
  // Instances that share a card, and cards that share an instance.
  const together = spansCards ? packed : Math.ceil(packed / count);
  const cards = spansCards ? count : 1;
  const total = need.total * together;
  const room = largest.memory * cards;
  const all = mode === "Packed" && together > 1 ? `, ${together} of them ${gib(total)} GiB` : "";
  const has = cards > 1 ? `${cards} x ${gib(largest.memory)} GiB` : `${gib(largest.memory)} GiB`;
  const numbers = `${takes}${all}; ${largest.product} has ${has}`;
  return { fits: total <= room, message: total <= room ? numbers : `${numbers}: ${cure(mode, need)}` };
}

function cure(mode: GpuPlan["mode"], { kv }: MemoryNeed): string {
  const less = kv === undefined ? "" : "a smaller contextTokens or sessionsPerInstance, ";
  return mode === "Packed"
    ? `write fewer instancesPerPod, ${less}or a smaller model`
    : `write ${less}a smaller model, or larger cards`;
}

const gib = (bytes: number): string => (bytes / 2 ** 30).toFixed(1);
