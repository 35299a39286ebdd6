import type { Observed } from "./gather.ts";
import { isHeld } from "./hold.ts";
import type { Pod } from "./kinds.ts";
import { claimsOf, podState, waitsForVolume } from "./pod-state.ts";
import { type Subject, subjectName } from "./words.ts";

/** What stays behind and does not say why: sets and Jobs without their pods, pods that neither run nor complain, claims that pods wait for. */
export function behind({ variants, router, loads }: Observed): Subject[] {
  const subjects: Subject[] = [];
  for (const variant of variants) {
    const { set, pods } = variant;
    if (set && !isHeld(variant) && pods.length < (set.spec?.replicas ?? 0))
      subjects.push({ kind: "StatefulSet", name: set.metadata.name });
  }
  const loading = loads.filter(({ facts }) => !facts);
  for (const { job, pods } of loading)
    if (job && pods.length === 0) subjects.push({ kind: "Job", name: job.metadata.name });
  const pods = [...variants, router, ...loading].flatMap((one) => one.pods);
  for (const pod of pods.filter(isToStart)) {
    if (waitsForVolume(pod)) {
      for (const name of claimsOf(pod)) subjects.push({ kind: "PersistentVolumeClaim", name });
      continue;
    }
    const { state, message } = podState(pod);
    if (state === "Pending" && message === undefined) subjects.push({ kind: "Pod", name: pod.metadata.name });
  }
  return [...new Map(subjects.map((subject) => [subjectName(subject), subject])).values()];
}

/** One that has ended, well or not, or is to end starts no more, whatever is said of it. */
const isToStart = ({ metadata, status }: Pod): boolean =>
  status?.phase === "Pending" && metadata.deletionTimestamp === undefined;
