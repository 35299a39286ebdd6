import type { LLMPoolStatus } from "../src/api/llmpool.ts";
import type { ConditionType } from "../src/api/names.ts";
import type { EventRecorder } from "../src/kube/events.ts";
import type { KubeObject } from "../src/kube/object.ts";
import { isStarting } from "./conditions.ts";

/** Tells people when a pool becomes ready, and why it no longer is; and what is wrong with its model or its place, also while it serves. */
export function announce(
  recorder: Pick<EventRecorder, "record">,
  pool: KubeObject,
  before: LLMPoolStatus | undefined,
  after: LLMPoolStatus,
): void {
  const [ready, known] = [conditionOf(after, "Ready"), conditionOf(before, "Ready")];
  for (const type of ["ModelAvailable", "Schedulable"] as const) {
    const [now, then] = [conditionOf(after, type), conditionOf(before, type)];
    const isNews = now?.status === "False" && (then?.status !== "False" || then.reason !== now.reason);
    if (isNews && now.reason !== ready?.reason)
      recorder.record(pool, { type: "Warning", reason: now.reason, action: "Reconcile", note: now.message });
  }
  if (!ready || (ready.status === known?.status && ready.reason === known.reason)) return;
  // That it starts is no news; that it stopped serving is.
  if (isStarting(ready.reason) && known?.status !== "True") return;
  recorder.record(pool, {
    type: ready.status === "True" ? "Normal" : "Warning",
    reason: ready.reason,
    action: "Reconcile",
    note: ready.message,
  });
}

const conditionOf = (status: LLMPoolStatus | undefined, type: ConditionType) =>
  status?.conditions?.find((condition) => condition.type === type);
