import type { V1StatefulSet } from "@kubernetes/client-node";
import { ANNOTATIONS } from "../src/api/names.ts";
import type { KubeObject, ObjectOf } from "../src/kube/object.ts";
import type { Observed, ObservedVariant } from "./gather.ts";
import { namesOf } from "./render/names.ts";

/**
 * A variant whose model is not on its volume yet is held: what runs stays what it is, and what does not run is not made, so that no pod holds a card
 * while it waits and an edit to a model that cannot be had costs no instance. Only the number of pods follows the spec (not of Packed ones: what
 * runs in them is in the held ConfigMap). `kept` names what is neither written nor deleted.
 */
export function hold(
  objects: readonly KubeObject[],
  pool: string,
  { variants }: Observed,
): { wanted: KubeObject[]; kept: Set<string> } {
  const kept = new Set<string>();
  const held = new Map(variants.filter(isHeld).map((one) => [namesOf(pool).variant(one.rendered.plan.name), one]));
  const wanted = objects.flatMap((object) => {
    const variant = held.get(object.metadata.name);
    if (!variant || (object.kind !== "StatefulSet" && object.kind !== "ConfigMap")) return object;
    const scaled = object.kind === "StatefulSet" ? scaledSet(object as ObjectOf<V1StatefulSet>, variant) : undefined;
    if (scaled) return scaled;
    kept.add(`${object.kind} ${object.metadata.name}`);
    return [];
  });
  return { wanted, kept };
}

export const isHeld = ({ load }: ObservedVariant): boolean => load !== undefined && load.facts === undefined;

/** The set as it is, with the number of pods that is wanted; undefined: it is so already, or there is none. */
function scaledSet(
  wanted: ObjectOf<V1StatefulSet>,
  { set, rendered }: ObservedVariant,
): ObjectOf<V1StatefulSet> | undefined {
  if (!set?.spec || !wanted.spec || rendered.packed || set.spec.replicas === wanted.spec.replicas) return undefined;
  const revision = set.metadata.annotations?.[ANNOTATIONS.revision];
  return {
    ...wanted,
    metadata: {
      ...wanted.metadata,
      annotations: { ...(revision !== undefined && { [ANNOTATIONS.revision]: revision }) },
    },
    spec: { ...wanted.spec, template: set.spec.template },
  };
}
