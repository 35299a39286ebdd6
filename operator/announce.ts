import type { LLMPoolStatus } from "../src/api/llmpool.ts";
import type { EventRecorder } from "../src/kube/events.ts";
import type { KubeObject } from "../src/kube/object.ts";

/** Tells people when a pool becomes ready, and why it no longer is. */
export function announce(
  recorder: Pick<EventRecorder, "record">,
  pool: KubeObject,
  before: LLMPoolStatus | undefined,
  after: LLMPoolStatus,
): void {
  const ready = after.conditions?.find(({ type }) => type === "Ready");
  const known = before?.conditions?.find(({ type }) => type === "Ready");
  if (!ready || (ready.status === known?.status && ready.reason === known.reason)) return;
  const starting = ready.reason === "Loading" || ready.reason === "Pending";
  // That it starts is no news; that it stopped serving is.
  if (starting && known?.status !== "True") return;
  recorder.record(pool, {
    type: ready.status === "True" ? "Normal" : "Warning",
    reason: ready.reason,
    action: "Reconcile",
    note: ready.message,
  });
}
