import type { InstancePlan } from "../src/core/plan/types.ts";
import type { ObservedVariant } from "./gather.ts";
import { isHeld } from "./hold.ts";
import type { Pod } from "./kinds.ts";
import { waitingState } from "./model-state.ts";
import { type PodState, podState } from "./pod-state.ts";
import type { Probed } from "./probe.ts";
import { ordinalOf } from "./rollout.ts";

/** One wanted instance, and what is there of it. */
export interface Row {
  instance: InstancePlan;
  pod: Pod | undefined;
  seen: PodState;
}

export function rowsOf(variant: ObservedVariant, probed: Probed): Row[] {
  const { rendered, pods, load } = variant;
  return rendered.plan.instances.map((instance) => {
    const pod = pods.find((one) => ordinalOf(one) === instance.ordinal);
    if (!pod && load && isHeld(variant)) return { instance, pod, seen: waitingState(load) };
    if (!pod)
      return { instance, pod, seen: { state: "Pending", restarts: 0, message: "its pod is not there yet" } as const };
    const seen = podState(pod);
    if (!rendered.packed || seen.state !== "Ready") return { instance, pod, seen };
    // The supervisor answers; whether the instance does is asked from itself.
    const state = probed.get(instance.id) ?? "Loading";
    return { instance, pod, seen: { ...seen, state } };
  });
}

export const isReady = ({ seen }: Row): boolean => seen.state === "Ready";
