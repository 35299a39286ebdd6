/**
 * Polls `check` until it returns something other than false, null or undefined, and returns that.
 * For real servers only: code under a fake clock is advanced instead. Fails with `what` and the last error after `timeoutMs`,
 * a limit against hanging that no passing test comes near. Rejects with the signal's reason when it is aborted.
 */
export async function eventually<T>(
  what: string,
  check: () => T | Promise<T>,
  timeoutMs = 60_000,
  signal?: AbortSignal,
): Promise<NonNullable<Exclude<T, false>>> {
  const end = performance.now() + timeoutMs;
  let last: unknown;
  for (;;) {
    signal?.throwIfAborted();
    try {
      const value = await check();
      if (value !== false && value !== null && value !== undefined) return value as NonNullable<Exclude<T, false>>;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (performance.now() > end) throw new Error(`never happened: ${what}`, { cause: last });
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
