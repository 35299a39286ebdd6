import type { InstancePlan } from "../src/core/plan/types.ts";
import type { Told } from "./ask.ts";
import type { ObservedVariant } from "./gather.ts";
import { isHeld } from "./hold.ts";
import type { Pod } from "./kinds.ts";
import { waitingState } from "./model-state.ts";
import { type PodState, podState } from "./pod-state.ts";
import { ordinalOf } from "./rollout.ts";

/** One wanted instance, and what is there of it. */
export interface Row {
  instance: InstancePlan;
  pod: Pod | undefined;
  seen: PodState;
  /** What it says of itself, once it runs. */
  told: Told | undefined;
}

export function rowsOf(variant: ObservedVariant, told: ReadonlyMap<string, Told>): Row[] {
  const { rendered, pods, load } = variant;
  return rendered.plan.instances.map((instance) => {
    const pod = pods.find((one) => ordinalOf(one) === instance.ordinal);
    if (!pod && load && isHeld(variant)) return { instance, pod, seen: waitingState(load), told: undefined };
    if (!pod) return { instance, pod, seen: { ...NO_POD }, told: undefined };
    const seen = podState(pod);
    const said = told.get(instance.id);
    return { instance, pod, seen: seenOf(seen, said, rendered.packed), told: said };
  });
}

const NO_POD = { state: "Pending", restarts: 0, message: "its pod is not there yet" } as const;

/** A kubelet knows whether a pod of one instance is ready; of a Packed pod it knows only that the supervisor answers. */
function seenOf(pod: PodState, told: Told | undefined, packed: boolean): PodState {
  if (packed && pod.state === "Ready") {
    const { state = "Loading", restarts = 0, message } = told ?? {};
    return { state, restarts, ...(message !== undefined && state !== "Ready" && { message }) };
  }
  return pod.state === "Loading" && told?.state === "WarmingUp" ? { ...pod, state: "WarmingUp" } : pod;
}

export const isReady = ({ seen }: Row): boolean => seen.state === "Ready";
