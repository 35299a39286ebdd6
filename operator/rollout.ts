import { ANNOTATIONS } from "../src/api/names.ts";
import type { InstancePlan } from "../src/core/plan/types.ts";
import { isOfRevision, type Told } from "./ask.ts";
import type { Pod } from "./kinds.ts";
import { podState } from "./pod-state.ts";

/** A variant's pods as they are, and what they should be. */
export interface Rollout {
  pods: readonly Pod[];
  wanted: number;
  revision: string;
  packed?: Packed;
}

/** Of pods whose readiness tells no more than that their supervisor answers. */
export interface Packed {
  /** All of the variant. */
  instances: readonly InstancePlan[];
  /** What this very pod has said of its instances, by id; nothing: it has not been asked, or does not answer. */
  said: (pod: Pod) => ReadonlyMap<string, Told>;
}

export const isCurrent = (pod: Pod, revision: string): boolean =>
  pod.metadata.annotations?.[ANNOTATIONS.revision] === revision;

/**
 * The pods to delete now, so that the StatefulSet makes them anew: none while a replaced one is not ready, so a bad change stops at one broken
 * pod. Those that do not serve go at once, because nothing is lost: a bad change that was reverted heals that way. Of those that serve one goes,
 * the highest ordinal first, and only while all pods are there.
 */
export function podsToReplace({ pods, wanted, revision, packed }: Rollout): Pod[] {
  const there = pods.filter((pod) => pod.metadata.deletionTimestamp === undefined && ordinalOf(pod) < wanted);
  const stale = there.filter((pod) => !isCurrent(pod, revision));
  if (!there.every((pod) => !isCurrent(pod, revision) || (isReady(pod) && holdsAll(pod, packed)))) return [];
  const broken = stale.filter((pod) => !isReady(pod) || holdsNone(pod, packed));
  if (broken.length > 0) return broken;
  if (there.length < wanted) return [];
  return stale.sort((a, b) => ordinalOf(b) - ordinalOf(a)).slice(0, 1);
}

const isReady = (pod: Pod): boolean => podState(pod).state === "Ready";

/** A new supervisor answers long before its processes have loaded: the rollout waits until it says that each of them is Ready, as it is wanted. */
function holdsAll(pod: Pod, packed: Packed | undefined): boolean {
  const own = packed?.instances.filter(({ ordinal }) => ordinal === ordinalOf(pod)) ?? [];
  return own.every(({ id, revision }) => {
    const told = packed?.said(pod).get(id);
    return told?.state === "Ready" && isOfRevision(told, revision);
  });
}

/** Only its own word counts: of a pod that has said nothing, as after a start of the operator, one does not know that it serves nobody. */
function holdsNone(pod: Pod, packed: Packed | undefined): boolean {
  const said = [...(packed?.said(pod).values() ?? [])];
  return said.length > 0 && said.every(({ state }) => state === "Failed");
}

/** Position of a pod in its StatefulSet, which is the end of its name. */
export function ordinalOf({ metadata: { name } }: Pod): number {
  return Number(name.slice(name.lastIndexOf("-") + 1));
}
