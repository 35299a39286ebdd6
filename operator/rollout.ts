import { ANNOTATIONS } from "../src/api/names.ts";
import type { Pod } from "./kinds.ts";
import { podState } from "./pod-state.ts";

/** A variant's pods as they are, and what they should be. */
export interface Rollout {
  pods: readonly Pod[];
  wanted: number;
  revision: string;
}

export const isCurrent = (pod: Pod, revision: string): boolean =>
  pod.metadata.annotations?.[ANNOTATIONS.revision] === revision;

/**
 * The pods to delete now, so that the StatefulSet makes them anew: none while a replaced one is not ready, so a bad change stops at one broken
 * pod. Those that do not serve go at once, because nothing is lost: a bad change that was reverted heals that way. Of those that serve one goes,
 * the highest ordinal first, and only while all pods are there.
 */
export function podsToReplace({ pods, wanted, revision }: Rollout): Pod[] {
  const there = pods.filter((pod) => pod.metadata.deletionTimestamp === undefined && ordinalOf(pod) < wanted);
  const stale = there.filter((pod) => !isCurrent(pod, revision));
  if (!there.every((pod) => !isCurrent(pod, revision) || isReady(pod))) return [];
  const broken = stale.filter((pod) => !isReady(pod));
  if (broken.length > 0) return broken;
  if (there.length < wanted) return [];
  return stale.sort((a, b) => ordinalOf(b) - ordinalOf(a)).slice(0, 1);
}

const isReady = (pod: Pod): boolean => podState(pod).state === "Ready";

/** Position of a pod in its StatefulSet, which is the end of its name. */
export function ordinalOf({ metadata: { name } }: Pod): number {
  return Number(name.slice(name.lastIndexOf("-") + 1));
}
