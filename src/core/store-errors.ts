import { LLMPoolError } from "../lib/errors.ts";
import type { AdmitRequest } from "./store.ts";

/** What every home of the StateStore refuses, in the same words. */

export function closedError(): LLMPoolError {
  return new LLMPoolError("store_unavailable", "the store is closed");
}

/**
 * When it is worth asking a store again that has been away for so long, in seconds: nobody knows when it is back, but what has just gone is
 * more likely to be back in a moment than what has been away for minutes.
 */
export function backInSeconds(awayMs: number): number {
  return Math.min(30, Math.max(1, awayMs / 2000));
}

export function noEpisodeError(id: string): LLMPoolError {
  return new LLMPoolError("not_found", `no episode "${id}"`, { param: "id" });
}

export function endedError(id: string, reason: string | undefined): LLMPoolError {
  return new LLMPoolError("episode_ended", `episode "${id}" has ended (${reason})`, { param: "id" });
}

export function takenError(id: string | undefined): LLMPoolError {
  return new LLMPoolError("invalid_request", `episode "${id}" exists already`, { param: "id" });
}

export function inUseError(): LLMPoolError {
  return new LLMPoolError("invalid_request", "this request id is in use", { param: "x-request-id" });
}

/** Sizes that are no counts would poison every sum that they enter. */
export function checkAdmit({ worstCase, minimum, claims }: AdmitRequest): void {
  const isCount = (n: number) => Number.isSafeInteger(n) && n > 0;
  if (!isCount(worstCase)) throw invalid("worstCase", worstCase);
  if (!isCount(minimum)) throw invalid("minimum", minimum);
  for (const { scope, limit, windowSeconds } of claims) {
    if (!isCount(limit)) throw invalid(`the ${scope} limit`, limit);
    if (windowSeconds !== undefined && !(windowSeconds > 0)) throw invalid(`the ${scope} window`, windowSeconds);
  }
}

function invalid(what: string, value: number): LLMPoolError {
  return new LLMPoolError("invalid_request", `${what} must be a whole number above 0, not ${value}`);
}
