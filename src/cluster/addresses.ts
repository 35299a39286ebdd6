import { DEFAULT_VARIANT, LABELS } from "../api/names.ts";
import type { PoolPlan, VariantPlan } from "../core/plan/types.ts";
import type { KubeObject } from "../kube/object.ts";

/** A pod, as far as its instances' addresses go. */
export interface InstancePod extends KubeObject {
  status?: { podIP?: string; phase?: string };
}

/** One instance in a pod. */
export interface InstanceAddress {
  id: string;
  variant: string;
  url: string;
  pod: string;
  draining: boolean;
}

const FIRST_PORT = 8000;

/**
 * Where the instances of these pods are. Ids follow from the pod's ordinal and the variant's instances per pod, so a pod that leaves keeps its id
 * though the plan no longer holds it; only pods of variants that are gone are left out. Those that leave are draining.
 */
export function addressesOf(plan: PoolPlan, pods: readonly InstancePod[]): InstanceAddress[] {
  const found = pods.flatMap((pod) => {
    const { name, labels, deletionTimestamp } = pod.metadata;
    const variant = plan.variants.find((v) => v.name === labels?.[LABELS.variant]);
    const ordinal = Number(/-(\d+)$/.exec(name)?.[1] ?? Number.NaN);
    const { podIP: ip, phase } = pod.status ?? {};
    if (!variant || !Number.isInteger(ordinal) || !ip || phase === "Failed" || phase === "Succeeded") return [];
    const host = ip.includes(":") ? `[${ip}]` : ip;
    return slotsOf(variant, ordinal, deletionTimestamp !== undefined).map(({ index, port, leaving }) => ({
      id: variant.name === DEFAULT_VARIANT ? `${index}` : `${variant.name}-${index}`,
      variant: variant.name,
      url: `http://${host}:${port}`,
      pod: name,
      draining: leaving,
    }));
  });
  return found.sort((a, b) => (a.id < b.id ? -1 : 1));
}

/** The places of one pod that hold an instance, or still do although it is to go. */
function slotsOf({ gpu, instances }: VariantPlan, ordinal: number, podLeaves: boolean) {
  const perPod = gpu?.instancesPerPod ?? 1;
  const slots = Array.from({ length: perPod }, (_, slot) => {
    const index = ordinal * perPod + slot;
    return { index, port: FIRST_PORT + slot, leaving: podLeaves || index >= instances.length };
  });
  // A Packed pod that stays, with fewer instances than places: the rest holds nothing.
  const podStays = ordinal * perPod < instances.length;
  return podStays ? slots.filter(({ index }) => index < instances.length) : slots;
}
