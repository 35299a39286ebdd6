import { StartError } from "../api/instance.ts";
import { sleep } from "../lib/sleep.ts";
import type { Context } from "./context.ts";

/** A failure that may be gone at the next try: a cut, a stall, a busy server, no network. */
export class TransientError extends Error {
  /** What the server asked for, in milliseconds. */
  readonly retryAfterMs: number | undefined;

  constructor(message: string, options: { retryAfterMs?: number | undefined; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.retryAfterMs = options.retryAfterMs;
  }
}

/** Tries in a row that bring nothing before giving up. */
export const MAX_TRIES = 5;
const BASE_MS = 500;
const MAX_MS = 30_000;

/**
 * Repeats `attempt` after TransientErrors, with full-jitter backoff, until MAX_TRIES in a row made no progress.
 * @param progressed whether the attempt that just failed brought something; then counting starts again.
 */
export async function withRetries<T>(
  context: Context,
  what: string,
  attempt: () => Promise<T>,
  progressed: () => boolean = () => false,
): Promise<T> {
  for (let failures = 0; ; ) {
    try {
      return await attempt();
    } catch (error) {
      context.signal.throwIfAborted();
      if (!(error instanceof TransientError)) throw error;
      failures = progressed() ? 1 : failures + 1;
      if (failures >= MAX_TRIES) {
        throw new StartError(
          "ModelDownloadFailed",
          `cannot download ${what}: ${error.message} (${MAX_TRIES} tries); check network and proxy, then start again: what was fetched is kept`,
          { cause: error },
        );
      }
      const backoff = Math.min(MAX_MS, BASE_MS * 2 ** (failures - 1)) * (0.5 + context.random() / 2);
      const ms = Math.max(backoff, Math.min(MAX_MS, error.retryAfterMs ?? 0));
      context.log.warn("download interrupted, trying again", { what, cause: error.message, in_ms: Math.round(ms) });
      await sleep(context.clock, ms, context.signal);
    }
  }
}
