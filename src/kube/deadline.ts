import type { Clock } from "../lib/clock.ts";

/**
 * Runs `work` with a signal that fires with `signal`, or with `reason()` after `ms`. The work is aborted, not only given up; it ends when the
 * work ends.
 */
export async function withDeadline<T>(
  clock: Clock,
  ms: number,
  reason: () => Error,
  signal: AbortSignal | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  const own = new AbortController();
  const cancel = clock.after(ms, () => own.abort(reason()));
  const forward = () => own.abort(signal?.reason);
  signal?.addEventListener("abort", forward, { once: true });
  try {
    return await work(own.signal);
  } finally {
    cancel();
    signal?.removeEventListener("abort", forward);
  }
}

/** What `promise` gives, unless the signal fires first: then its reason. For work that cannot be aborted; it goes on, unheeded. */
export function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal?.reason);
    if (signal?.aborted) onAbort();
    signal?.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal?.removeEventListener("abort", onAbort));
  });
}
