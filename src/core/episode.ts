import type { EndReason } from "../api/http.ts";
import type { EpisodeSettings } from "./store.ts";

/**
 * When an episode ends. It is `active` from its start to its end, `ended` (with a reason, once) for `retainSeconds` after that, then
 * forgotten, and its id is free. While active, progress within the last `progressExtendSeconds` before the deadline moves the deadline by
 * as much, but never past start + `maxTimeoutSeconds`; the moved deadline is outside of that window again, so one window is worth one
 * extension. Progress, admissions and settlements are activity; a heartbeat is neither. It ends when it is finished or cancelled, or when
 * its deadline comes (`deadline`; `max_deadline` when no progress could have moved it further), or when nothing runs for it and the last
 * activity is `idleTimeoutSeconds` old (`idle`). What comes first decides; of a deadline and idleness at one instant, the deadline.
 *
 * All instants are milliseconds on one monotonic scale. Times are compared when somebody asks, so a late timer changes nothing.
 */
export interface Life {
  readonly startedAt: number;
  deadline: number;
  activeAt: number;
  extensions: number;
  /** Requests admitted and not settled. */
  running: number;
  ended?: { reason: EndReason; at: number };
}

export type Limits = Pick<
  EpisodeSettings,
  "timeoutSeconds" | "progressExtendSeconds" | "maxTimeoutSeconds" | "idleTimeoutSeconds" | "retainSeconds"
>;

export function startLife(limits: Limits, now: number): Life {
  const timeoutMs = Math.min(limits.timeoutSeconds, limits.maxTimeoutSeconds) * 1000;
  return { startedAt: now, deadline: now + timeoutMs, activeAt: now, extensions: 0, running: 0 };
}

/** When and why it ends if nothing more happens. */
export function endingOf(life: Life, limits: Limits): { at: number; reason: EndReason } {
  if (life.ended) return life.ended;
  const isIdleSooner = limits.idleTimeoutSeconds > 0 && life.running === 0;
  const idleAt = isIdleSooner ? life.activeAt + limits.idleTimeoutSeconds * 1000 : Number.POSITIVE_INFINITY;
  if (idleAt < life.deadline) return { at: idleAt, reason: "idle" };
  return { at: life.deadline, reason: life.deadline < lastDeadline(life, limits) ? "deadline" : "max_deadline" };
}

/** Ends it, at the instant when that was due, if that is now or past. True when it ended by this. */
export function expire(life: Life, limits: Limits, now: number): boolean {
  if (life.ended) return false;
  const { at, reason } = endingOf(life, limits);
  return at <= now && end(life, reason, at);
}

/** True the first time; a second end changes nothing. */
export function end(life: Life, reason: EndReason, now: number): boolean {
  if (life.ended) return false;
  life.ended = { reason, at: now };
  return true;
}

/** Something happened for it. */
export function touch(life: Life, now: number): void {
  life.activeAt = Math.max(life.activeAt, now);
}

/** Progress of a life that is not expired at `now`. True when it moved the deadline. */
export function recordProgress(life: Life, limits: Limits, now: number): boolean {
  touch(life, now);
  const extendMs = limits.progressExtendSeconds * 1000;
  if (life.ended || now < life.deadline - extendMs) return false;
  const moved = Math.min(lastDeadline(life, limits), life.deadline + extendMs);
  if (moved <= life.deadline) return false;
  life.deadline = moved;
  life.extensions++;
  return true;
}

/** When an ended episode is forgotten. */
export function forgetAt(life: Life, limits: Limits): number {
  return life.ended ? life.ended.at + limits.retainSeconds * 1000 : Number.POSITIVE_INFINITY;
}

/** The same life on a scale that is `ms` ahead: after a restart, or when time has passed that this process did not see. */
export function shift(life: Life, ms: number): Life {
  return {
    ...life,
    startedAt: life.startedAt + ms,
    deadline: life.deadline + ms,
    activeAt: life.activeAt + ms,
    ...(life.ended && { ended: { ...life.ended, at: life.ended.at + ms } }),
  };
}

function lastDeadline(life: Life, limits: Limits): number {
  return life.startedAt + limits.maxTimeoutSeconds * 1000;
}
