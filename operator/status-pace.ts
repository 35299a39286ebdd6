import { isDeepStrictEqual } from "node:util";
import type { LLMPoolStatus } from "../src/api/llmpool.ts";
import { isStarting } from "./conditions.ts";

/**
 * How long after the last write a further one of mere progress waits, in milliseconds, the first and all later ones: a start of a minute is told in four
 * writes, with its begin and its end, a longer one twice a minute.
 */
const PROGRESS_MS = [5_000, 30_000] as const;
/** After so long without a write, in milliseconds, the first step counts again. */
const QUIET_MS = 60_000;

/** News is written at once so many times in a row, and then once in this many milliseconds: pods that flap are no reason to write without pause. */
const NEWS_BURST = 4;
const NEWS_MS = 1_000;

interface Written {
  at: number;
  progress: number;
  /** Until when the news that was written is paid for. */
  paidUntil: number;
}

/** Decides when a status is written: what a person or a program waits for at once, progress now and then. */
export class StatusPace {
  readonly #written = new Map<string, Written>();

  /**
   * Milliseconds until `next` is to be written; 0: now. `now` is on the clock.
   * @param before as stored
   */
  wait(key: string, before: LLMPoolStatus | undefined, next: LLMPoolStatus, now: number): number {
    const last = this.#written.get(key);
    if (!last || isDeepStrictEqual(before, next)) return 0;
    if (isNews(before, next)) return Math.max(0, last.paidUntil - now - (NEWS_BURST - 1) * NEWS_MS);
    const since = now - last.at;
    const step = PROGRESS_MS[since >= QUIET_MS ? 0 : Math.min(last.progress, PROGRESS_MS.length - 1)] ?? 0;
    return Math.max(0, step - since);
  }

  /** `next` was written in place of `before`. */
  wrote(key: string, before: LLMPoolStatus | undefined, next: LLMPoolStatus, now: number): void {
    const last = this.#written.get(key);
    const news = isNews(before, next);
    const again = last && now - last.at < QUIET_MS && !news;
    const paidUntil = Math.max(last?.paidUntil ?? now, now) + (news ? NEWS_MS : 0);
    this.#written.set(key, { at: now, progress: again ? last.progress + 1 : 0, paidUntil });
  }

  forget(key: string): void {
    this.#written.delete(key);
  }
}

/** Whether somebody may wait for it, or has to act on it. */
function isNews(before: LLMPoolStatus | undefined, next: LLMPoolStatus): boolean {
  if (!isDeepStrictEqual(telling(before), telling(next))) return true;
  return (next.conditions ?? []).some(({ type, status }) => {
    const known = before?.conditions?.find((condition) => condition.type === type);
    return status === "False" && known !== undefined && known.status !== "False" && type !== "Progressing";
  });
}

function telling(status: LLMPoolStatus | undefined) {
  const of = (type: string) => status?.conditions?.find((condition) => condition.type === type);
  const ready = of("Ready");
  return {
    generation: status?.observedGeneration,
    ready: ready?.status,
    reason: isStarting(ready?.reason) ? "starting" : ready?.reason,
    moving: of("Reconciling") !== undefined,
    stalled: of("Stalled")?.reason,
  };
}
