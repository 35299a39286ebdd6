import { StartError } from "../api/instance.ts";
import type { Clock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import { sleep } from "../lib/sleep.ts";

const POLL_MS = 200;
const SQLITE_BUSY = 5;

/**
 * Runs `work` while no other process (or other call of this one) holds the lock of `path`; `whileWaiting` is called before each new try.
 *
 * The lock is the kernel's, taken through SQLite on an empty file: it ends with its holder, however that dies, and it means the same
 * to two containers on one volume. A file with a pid in it can promise neither. The file stays, empty.
 */
export async function withLock<T>(
  path: string,
  options: { clock: Clock; signal: AbortSignal; whileWaiting: () => Promise<void> },
  work: () => Promise<T>,
): Promise<T> {
  const { DatabaseSync } = await import("node:sqlite");
  for (;;) {
    options.signal.throwIfAborted();
    const file = new DatabaseSync(path, { timeout: 0 });
    try {
      if (tryLock(() => file.exec("BEGIN EXCLUSIVE"), path)) return await work();
    } finally {
      file.close();
    }
    await options.whileWaiting();
    await sleep(options.clock, POLL_MS, options.signal);
  }
}

function tryLock(begin: () => void, path: string): boolean {
  try {
    begin();
    return true;
  } catch (error) {
    if (error instanceof Error && "errcode" in error && error.errcode === SQLITE_BUSY) return false;
    throw new StartError(
      "ModelDownloadFailed",
      `cannot lock ${path} (${messageOf(error)}): put the model cache on a disk with file locks, with LLMPOOL_CACHE`,
      { cause: error },
    );
  }
}
