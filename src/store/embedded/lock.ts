import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { LLMPoolError, messageOf } from "../../lib/errors.ts";
import { processStart } from "../../lib/process-start.ts";
import { isBusy } from "./sqlite-error.ts";

interface Holder {
  pid: number;
  /** When that process began, as its system tells it: a pid alone comes again. */
  started: string;
  host: string;
}

/**
 * Makes this process the only one on a state directory; throws with the pid of the one that is there. Two nets: `pid` names the holder,
 * who counts while a process with that pid and start is alive; and a lock of the kernel's on `lock` (SQLite's, on an empty file), which
 * ends with its holder however that dies, and also holds between containers that do not see each other's pids.
 */
export function lockDirectory(dir: string): { release(): void } {
  const pidFile = join(dir, "pid");
  const holder = readHolder(pidFile);
  if (holder && isAlive(holder)) throw inUse(dir, holder);
  const file = new DatabaseSync(join(dir, "lock"), { timeout: 0 });
  try {
    file.exec("BEGIN EXCLUSIVE");
    writeFileSync(
      pidFile,
      JSON.stringify({ pid: process.pid, started: processStart(process.pid) ?? "", host: hostname() }),
    );
  } catch (error) {
    file.close();
    if (isBusy(error)) throw inUse(dir, readHolder(pidFile));
    throw new LLMPoolError("store_unavailable", `cannot lock the state directory ${dir}: ${messageOf(error)}`, {
      cause: error,
    });
  }
  return {
    release() {
      // In this order: after the lock is free, the file is the next holder's.
      rmSync(pidFile, { force: true });
      file.close();
    },
  };
}

function inUse(dir: string, holder: Holder | undefined): LLMPoolError {
  const who = holder
    ? `process ${holder.pid}${holder.host === hostname() ? "" : ` on ${holder.host}`}`
    : "another process";
  return new LLMPoolError(
    "store_unavailable",
    `the state directory ${dir} is in use by ${who}; stop it, or give this one another directory`,
  );
}

function readHolder(pidFile: string): Holder | undefined {
  try {
    const { pid, started, host } = JSON.parse(readFileSync(pidFile, "utf8")) as Partial<Holder>;
    if (Number.isSafeInteger(pid) && pid !== undefined && pid > 0)
      return { pid, started: String(started), host: String(host) };
  } catch {
    // None, or cut off by a crash: the kernel's lock decides.
  }
  return undefined;
}

function isAlive({ pid, started, host }: Holder): boolean {
  return host === hostname() && processStart(pid) === started;
}
