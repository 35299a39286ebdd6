import type { InstancePlan } from "../src/core/plan/types.ts";
import { isOfRevision, type Told } from "./ask.ts";
import type { ObservedVariant } from "./gather.ts";
import { isHeld } from "./hold.ts";
import type { Pod } from "./kinds.ts";
import { waitingState } from "./model-state.ts";
import { type PodState, podStateIn } from "./pod-state.ts";
import { ordinalOf } from "./rollout.ts";
import type { Words } from "./words.ts";

/** One wanted instance, and what is there of it. */
export interface Row {
  instance: InstancePlan;
  pod: Pod | undefined;
  seen: PodState;
  /** What it says of itself, once it runs. */
  told: Told | undefined;
  /** Of a Packed pod: its process is of another revision than is wanted. It serves until its supervisor replaces it. */
  outdated: boolean;
}

export function rowsOf(variant: ObservedVariant, told: ReadonlyMap<string, Told>, words: Words): Row[] {
  const { rendered, set, pods, load } = variant;
  const refused = set && words.get(`StatefulSet/${set.metadata.name}`);
  const byOrdinal = new Map(pods.map((pod) => [ordinalOf(pod), pod]));
  return rendered.plan.instances.map((instance) => {
    const pod = byOrdinal.get(instance.ordinal);
    if (!pod) {
      const seen = load && isHeld(variant) ? waitingState(load, words) : noPod(refused);
      return { instance, pod, seen, told: undefined, outdated: false };
    }
    const seen = podStateIn(pod, words);
    const said = told.get(instance.id);
    const outdated = rendered.packed && said !== undefined && !isOfRevision(said, instance.revision);
    return { instance, pod, seen: seenOf(seen, said, rendered.packed), told: said, outdated };
  });
}

/** @param refused why the StatefulSet's controller cannot make it */
const noPod = (refused: string | undefined): PodState => ({
  state: "Pending",
  restarts: 0,
  message: refused ?? "its pod is not there yet",
  ...(refused !== undefined && { reason: "PodsRefused" }),
});

/** A kubelet knows whether a pod of one instance is ready; of a Packed pod it knows only that the supervisor answers. */
function seenOf(pod: PodState, told: Told | undefined, packed: boolean): PodState {
  if (packed && pod.state === "Ready") {
    const { state = "Loading", restarts = 0, message } = told ?? {};
    return { state, restarts, ...(message !== undefined && state !== "Ready" && { message }) };
  }
  return pod.state === "Loading" && told?.state === "WarmingUp" ? { ...pod, state: "WarmingUp" } : pod;
}

export const isReady = ({ seen }: Row): boolean => seen.state === "Ready";
