import type { V1ConfigMap, V1Job } from "@kubernetes/client-node";
import { ModelFacts } from "../src/api/model-facts.ts";
import { controllerOf, type ObjectOf } from "../src/kube/object.ts";
import type { Pod } from "./kinds.ts";
import { DENIED, type PodState, podStateIn } from "./pod-state.ts";
import type { ModelLoad } from "./render/model-load.ts";
import type { Words } from "./words.ts";

/** One model on its volume, as far as it is known. */
export interface ObservedLoad {
  load: ModelLoad;
  /** It lies there. */
  facts: ModelFacts | undefined;
  job: ObjectOf<V1Job> | undefined;
  /** Of its loader, oldest first; none: not yet, or no more. */
  pods: Pod[];
}

/**
 * The facts are the ConfigMap's, or those of the loader that has just ended well: its last words, which the kubelet puts into the pod's status. So
 * the loader needs no access to the API server.
 */
export function observeLoad(
  load: ModelLoad,
  map: ObjectOf<V1ConfigMap> | undefined,
  job: ObjectOf<V1Job> | undefined,
  pods: readonly Pod[],
): ObservedLoad {
  const own = pods.filter((pod) => job !== undefined && controllerOf(pod)?.uid === job.metadata.uid);
  const said = own
    .flatMap(({ status }) => status?.containerStatuses ?? [])
    .flatMap(({ state }) => {
      const { exitCode, message } = state?.terminated ?? {};
      return exitCode === 0 && message !== undefined ? [message] : [];
    });
  return {
    load,
    facts: factsIn(map?.data) ?? said.map(factsInText).find((facts) => facts !== undefined),
    job,
    pods: own.toSorted(byAge),
  };
}

/** When the Job ended, on the wall clock in milliseconds, although nothing is known of its model. */
export function spentAt({ facts, job, pods }: ObservedLoad): number | undefined {
  // Of a Job's end one may hear before that of its pod, whose last words are the facts.
  if (facts || pods.some(isRunning)) return undefined;
  const end = job?.status?.conditions?.find(
    ({ type, status }) => (type === "Complete" || type === "Failed") && status === "True",
  );
  return end && Date.parse(end.lastTransitionTime ?? "");
}

const isRunning = ({ metadata, status }: Pod): boolean =>
  metadata.deletionTimestamp === undefined && (status?.phase === "Pending" || status?.phase === "Running");

/** The state of instances that wait for it. */
export function waitingState(observed: ObservedLoad, words: Words): PodState {
  const { load, job } = observed;
  const newest = observed.pods.at(-1);
  const pod = newest && podStateIn(newest, words);
  const refused = job && words.get(`Job/${job.metadata.name}`);
  const { uri } = load.model;
  const of = (state: PodState["state"], message: string, reason?: string): PodState => ({
    state,
    message,
    restarts: 0,
    ...(reason !== undefined && { reason }),
  });
  if (spentAt(observed) !== undefined)
    return of(
      "Failed",
      `Job ${load.jobName} ended and said nothing of its model: give the operator images of its own release`,
      "LoaderSilent",
    );
  if (pod?.state === "Failed") return of("Failed", `${uri} cannot be loaded: ${pod.message}`, pod.reason);
  if (!pod && refused !== undefined) return of("Pending", `the loader of ${uri} has no pod: ${refused}`, "PodsRefused");
  if (pod?.reason !== undefined && DENIED.has(pod.reason))
    return of("Pending", `the loader of ${uri} cannot start: ${pod.message}`, pod.reason);
  return of("Loading", `Job ${load.jobName} ${job ? "loads" : "is to load"} ${uri} into claim ${load.claimName}`);
}

function factsIn(data: unknown): ModelFacts | undefined {
  return ModelFacts.safeParse(data).data;
}

function factsInText(text: string): ModelFacts | undefined {
  try {
    return factsIn(JSON.parse(text));
  } catch {
    return undefined;
  }
}

function byAge(a: Pod, b: Pod): number {
  return (a.metadata.creationTimestamp ?? "") < (b.metadata.creationTimestamp ?? "") ? -1 : 1;
}
