import type { Target } from "./ask.ts";
import type { ObservedVariant } from "./gather.ts";
import { podState } from "./pod-state.ts";
import { SUPERVISOR_PORT } from "./render/instance-pod.ts";
import { ordinalOf } from "./rollout.ts";

/** Whom to ask of a pool's instances: each itself, or the supervisor of those that share a pod. */
export function targetsOf(variants: readonly ObservedVariant[]): Target[] {
  return variants.flatMap(({ rendered, pods }) => {
    const { gpu, instances } = rendered.plan;
    const byOrdinal = Map.groupBy(instances, ({ ordinal }) => ordinal);
    return pods.flatMap((pod): Target[] => {
      const { podIP: ip } = pod.status ?? {};
      const { state } = podState(pod);
      if (!ip || (state !== "Ready" && state !== "Loading")) return [];
      const host = `http://${ip.includes(":") ? `[${ip}]` : ip}`;
      const uid = pod.metadata.uid ?? "";
      const ready = state === "Ready" && !rendered.packed;
      const own = byOrdinal.get(ordinalOf(pod)) ?? [];
      if (!rendered.packed) return own.map(({ id, port }) => ({ url: `${host}:${port}/readyz`, id, uid, ready }));
      const slots =
        gpu?.resourceClaimTemplateName === undefined ? new Map([[0, own]]) : Map.groupBy(own, ({ slot }) => slot);
      return [...slots].map(([slot, held]) => ({
        ...{ url: `${host}:${SUPERVISOR_PORT + slot}/healthz`, id: undefined, uid, ready },
        revisions: new Map(held.map(({ id, revision }) => [id, revision])),
      }));
    });
  });
}
