import { fileURLToPath } from "node:url";
import { LLMPOOLS } from "../../operator/kinds.ts";
import { API_VERSION, KIND, LABELS } from "../../src/api/names.ts";
import type { Client } from "../../src/kube/client.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { RESOURCES, selectorOf } from "../../src/kube/resource.ts";
import type { Call } from "./audit.ts";
import { isAtRest } from "./conditions.ts";
import { eventually } from "./eventually.ts";
import type { Pool } from "./pools.ts";

/** The LLMPool kind. */
export const CRD = fileURLToPath(new URL("../../crds/llmpools.llmpool.dev.yaml", import.meta.url));

/** Many pools in one namespace, on fake nodes of 8 cards that are cut in seven. */
export const FAKE_H100 = { gpus: 8, mig: { "1g.10gb": 56 }, taints: [] };

const AT_ONCE = 8;
const HANG_MS = 1_200_000;

export const nameOf = (i: number): string => `pool-${String(i).padStart(4, "0")}`;

/** Of isolated instances with a slice of a card each. */
export const poolOf = (namespace: string, i: number, instances: number): KubeObject & { spec: object } => ({
  apiVersion: API_VERSION,
  kind: KIND,
  metadata: { namespace, name: nameOf(i) },
  spec: {
    backend: "hf-cuda",
    model: { uri: "hf://org/repo", memoryMiB: 6000 },
    instances,
    drainSeconds: 0,
    gpu: { resource: "nvidia.com/mig-1g.10gb" },
    store: { ephemeral: true },
  },
});

/** Does it for each, several at once. Rejects with the signal's reason when it is aborted. */
export async function forEach<T>(
  items: readonly T[],
  act: (item: T) => Promise<unknown>,
  signal?: AbortSignal,
): Promise<void> {
  const left = items.values();
  const work = async () => {
    for (const item of left) {
      signal?.throwIfAborted();
      await act(item);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

/** Looks seldom, the more pools there are the less often: what looks costs the same cores. */
export const untilNextLook = (pools: number) => new Promise((resolve) => setTimeout(resolve, 5 * pools));

/** Resolves when all these pools are Ready and at rest, and all is written that instances say of themselves. */
export function allAtRest(client: Client, namespace: string, count: number, signal?: AbortSignal): Promise<unknown> {
  return eventually(
    `${count} pools at rest`,
    async () => {
      const { items } = await client.list<Pool>(LLMPOOLS, { namespace });
      const resting = items.filter((pool) => isAllTold(pool));
      await untilNextLook(count);
      return resting.length === count;
    },
    HANG_MS,
    signal,
  );
}

/** At rest, and all is written that instances say of themselves. */
export function isAllTold(pool: Pool, generation?: number): boolean {
  const told = pool.status?.instanceStatuses?.every(({ device }) => device !== undefined) ?? false;
  return told && isAtRest(pool, generation);
}

/** Pods of instances, from one pool to the next in turn. */
export async function instancePods(client: Client, namespace: string): Promise<KubeObject[]> {
  const labelSelector = selectorOf({ [LABELS.component]: "instance" });
  const { items } = await client.list(RESOURCES.pods, { namespace, labelSelector });
  const ordinal = ({ metadata }: KubeObject) => Number(metadata.name.split("-").at(-1));
  return items.sort((a, b) => ordinal(a) - ordinal(b) || (a.metadata.name < b.metadata.name ? -1 : 1));
}

/** Makes these pods unready and ready in turn, as often as it is told, and ready in the end. `perSecond` 0: as fast as it goes. */
export async function flip(
  client: Client,
  pods: readonly KubeObject[],
  times: number,
  perSecond: number,
  signal?: AbortSignal,
): Promise<void> {
  const began = performance.now();
  const ready = new Map(pods.map((pod) => [pod, true]));
  const set = async (pod: KubeObject, status: boolean) => {
    ready.set(pod, status);
    const conditions = [{ type: "Ready", status: status ? "True" : "False" }];
    const { namespace, name } = pod.metadata;
    const body = { status: { conditions } };
    const path = `/api/v1/namespaces/${namespace}/pods/${name}/status`;
    await client.request("PATCH", path, { body, contentType: "application/strategic-merge-patch+json" });
  };
  const numbers = Array.from({ length: times }, (_, i) => i);
  await forEach(
    numbers,
    async (i) => {
      const pod = pods[i % pods.length];
      const early = perSecond === 0 ? 0 : began + (i / perSecond) * 1000 - performance.now();
      if (early > 0) await new Promise((resolve) => setTimeout(resolve, early));
      if (pod) await set(pod, !ready.get(pod));
    },
    signal,
  );
  // All: of two that were on their way at once, either may have come last.
  await forEach(pods, (pod) => set(pod, true), signal);
}

/** Writes of operators: of leases and events apart, which are no pool's. */
export const ofPools = (calls: readonly Call[]): Call[] =>
  calls.filter(
    ({ userAgent, resource }) => userAgent.startsWith("llmpool-operator/") && !/^(leases|events)[.]/.test(resource),
  );

export const isStatus = ({ resource }: Call): boolean => resource.endsWith("/status");
