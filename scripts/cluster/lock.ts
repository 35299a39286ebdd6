import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { isBusy } from "../../src/store/embedded/sqlite-error.ts";

/**
 * Waits until no other process holds the lock on this file, then holds it until it is closed. The lock is the kernel's (SQLite's, on an
 * empty file): it ends with its holder, however that dies. `onWait` is called once when another one has it.
 */
export async function lock(file: string, onWait: () => void): Promise<{ close(): void }> {
  await mkdir(dirname(file), { recursive: true });
  const held = new DatabaseSync(file, { timeout: 0 });
  try {
    for (let waited = false; !tryLock(held); waited = true) {
      if (!waited) onWait();
      await sleep(100);
    }
  } catch (error) {
    held.close();
    throw error;
  }
  return held;
}

export async function withLock<T>(file: string, onWait: () => void, work: () => Promise<T>): Promise<T> {
  const held = await lock(file, onWait);
  try {
    return await work();
  } finally {
    held.close();
  }
}

function tryLock(held: DatabaseSync): boolean {
  try {
    held.exec("BEGIN EXCLUSIVE");
    return true;
  } catch (error) {
    if (isBusy(error)) return false;
    throw error;
  }
}
