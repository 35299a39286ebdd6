import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { promisify } from "node:util";
import type { Clock } from "../lib/clock.ts";

/** How far over its limit a process can get is what it allocates in this time. */
const INTERVAL_MS = 250;

/** Memory that each process holds and the system cannot take back, in bytes. A process that is gone is left out. */
export type MeasureMemory = (pids: readonly number[]) => Promise<ReadonlyMap<number, number>>;

/** Looks after memory limits where the kernel cannot be asked to. */
export class MemoryWatchdog {
  readonly #clock: Clock;
  readonly #measure: MeasureMemory;
  readonly #watched = new Map<number, { limitBytes: number; onOver: () => void }>();
  #looking = false;

  constructor(clock: Clock, measure: MeasureMemory = measureMemory) {
    this.#clock = clock;
    this.#measure = measure;
  }

  /** Calls `onOver` once when the process holds more than `limitBytes`. The returned function ends the watch. */
  watch(pid: number, limitBytes: number, onOver: () => void): () => void {
    this.#watched.set(pid, { limitBytes, onOver });
    this.#schedule();
    return () => void this.#watched.delete(pid);
  }

  #schedule(): void {
    if (this.#looking || this.#watched.size === 0) return;
    this.#looking = true;
    this.#clock.after(INTERVAL_MS, () => void this.#look());
  }

  async #look(): Promise<void> {
    const sizes = await this.#measure([...this.#watched.keys()]).catch(() => new Map<number, number>());
    for (const [pid, bytes] of sizes) {
      const entry = this.#watched.get(pid);
      if (!entry || bytes <= entry.limitBytes) continue;
      this.#watched.delete(pid);
      entry.onOver();
    }
    this.#looking = false;
    this.#schedule();
  }
}

const run = promisify(execFile);

/**
 * Linux: anonymous and shared memory and swap; mapped files (the weights) are not counted, because the system can drop them. Elsewhere: the
 * resident set that `ps` gives, mapped weights included.
 */
export const measureMemory: MeasureMemory = async (pids) => {
  if (process.platform === "linux") return new Map(pids.flatMap((pid) => fromProc(pid)));
  const { stdout } = await run("ps", ["-o", "pid=,rss=", "-p", pids.join(",")]);
  return parsePs(stdout);
};

/** `<pid> <KiB>` lines. */
export function parsePs(text: string): Map<number, number> {
  const rows = [...text.matchAll(/^\s*(\d+)\s+(\d+)\s*$/gm)];
  return new Map(rows.map(([, pid, kib]) => [Number(pid), Number(kib) * 1024]));
}

function fromProc(pid: number): [number, number][] {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    const kib = [...status.matchAll(/^(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB$/gm)].map(([, n]) => Number(n));
    return [[pid, kib.reduce((sum, n) => sum + n, 0) * 1024]];
  } catch {
    return [];
  }
}
