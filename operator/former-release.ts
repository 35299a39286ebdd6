import type { V1StatefulSet } from "@kubernetes/client-node";
import { CONTAINERS } from "../src/api/names.ts";
import type { ObjectOf } from "../src/kube/object.ts";
import type { Pod } from "./kinds.ts";
import type { ObservedLoad } from "./model-state.ts";
import { podState } from "./pod-state.ts";
import { isCurrent } from "./rollout.ts";

/*
 * What a release of the operator brings, such as other images, replaces no pod that serves or may come to serve. What fails has nothing to lose: the images of
 * before may be the cause.
 */

/** The hash of the template that a StatefulSet's controller made a pod of. */
const TEMPLATE = "controller-revision-hash";

/** Pods that fail as the pool wants them, but were made of a template of before. */
export function failedOfBefore(pods: readonly Pod[], set: ObjectOf<V1StatefulSet>, revision: string): Pod[] {
  const template = set.status?.updateRevision;
  return pods.filter(
    (pod) => fails(pod) && isCurrent(pod, revision) && template && pod.metadata.labels?.[TEMPLATE] !== template,
  );
}

/** Whether a model's loader fails in another image than its successor would have. */
export function failsInOldImage({ facts, job, pods }: ObservedLoad, image: string): boolean {
  const newest = pods.at(-1);
  const containers = job?.spec?.template.spec?.containers ?? [];
  const loader = containers.find(({ name }) => name === CONTAINERS.loader);
  return !facts && newest !== undefined && fails(newest) && loader !== undefined && loader.image !== image;
}

/** Not on a lost node, where it may live. */
function fails(pod: Pod): boolean {
  const { state, reason } = podState(pod);
  return state === "Failed" && reason !== "NodeLost";
}
