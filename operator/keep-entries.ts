import type { V1ConfigMap } from "@kubernetes/client-node";
import type { KubeObject, ObjectOf } from "../src/kube/object.ts";
import type { ObservedVariant } from "./gather.ts";
import type { Pod } from "./kinds.ts";
import { namesOf } from "./render/names.ts";
import { isCurrent, ordinalOf } from "./rollout.ts";

/**
 * A Packed pod that is to be replaced keeps the entries that it was made for until its turn comes, or an edit of `resources` or `instancesPerPod`
 * would start processes of the new size in a container of the old one. They are taken from the ConfigMap as it is stored, and written anew in the
 * look that deletes the pod, so that its successor finds its own.
 * @param due pods that are deleted in this look
 * @param stored data of a ConfigMap of this pool
 */
export function keepEntries(
  objects: readonly KubeObject[],
  pool: string,
  variants: readonly Pick<ObservedVariant, "rendered" | "pods">[],
  due: readonly Pod[],
  stored: (name: string) => V1ConfigMap["data"],
): KubeObject[] {
  const packed = new Map(
    variants.flatMap((one) => (one.rendered.packed ? [[namesOf(pool).variant(one.rendered.plan.name), one]] : [])),
  );
  return objects.map((object) => {
    const variant = object.kind === "ConfigMap" ? packed.get(object.metadata.name) : undefined;
    if (!variant) return object;
    const { pods, podRevision } = variant.rendered;
    const waiting = variant.pods.filter(
      (pod) =>
        !isCurrent(pod, podRevision) &&
        pod.metadata.deletionTimestamp === undefined &&
        ordinalOf(pod) < pods &&
        !due.includes(pod),
    );
    const { data = {} } = object as ObjectOf<V1ConfigMap>;
    return { ...object, data: keptIn(data, stored(object.metadata.name) ?? {}, new Set(waiting.map(ordinalOf))) };
  });
}

function keptIn(wanted: Record<string, string>, stored: Record<string, string>, ordinals: ReadonlySet<number>) {
  const kept = Object.entries(stored).filter(([name]) => ordinals.has(ordinalIn(name)));
  // One of which nothing is stored gets what is wanted.
  const known = new Set(kept.map(([name]) => ordinalIn(name)));
  const others = Object.entries(wanted).filter(([name]) => !known.has(ordinalIn(name)));
  return Object.fromEntries([...others, ...kept].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Of `3.json` or `3-1.json`. */
const ordinalIn = (name: string): number => Number.parseInt(name, 10);
