import { availableParallelism, type CpuInfo, cpus } from "node:os";
import { dirname, join } from "node:path";
import { findCgroup, read } from "./cgroup.ts";

/**
 * CPUs this process may really use, at least 1: the machine's, its affinity, and the time its control groups are given, rounded down. More
 * computing threads than this wait for each other and are several times slower. `root` and `present` are given by tests.
 */
export function availableCpus(root = "/", present = availableParallelism()): number {
  return Math.max(1, Math.floor(Math.min(present, quota(root))));
}

/** The tightest limit of the process's group and all above it, in CPUs. */
function quota(root: string): number {
  const group = findCgroup("cpu", root);
  let least = Number.POSITIVE_INFINITY;
  if (!group) return least;
  for (let dir = group.dir; dir.startsWith(group.mount); dir = dirname(dir)) {
    const [micros, period] =
      group.version === 1
        ? [read(join(dir, "cpu.cfs_quota_us")), read(join(dir, "cpu.cfs_period_us"))].map(Number)
        : read(join(dir, "cpu.max")).split(" ").map(Number);
    // -1, `max` and a file that is not there mean no limit.
    if (micros && period && micros > 0) least = Math.min(least, micros / period);
    if (dir === dirname(dir)) break;
  }
  return least;
}

/** A function that tells how many CPUs of the machine were busy, on average, since its last call. */
export function makeBusyCpus(read: () => Pick<CpuInfo, "times">[] = cpus): () => number {
  let before = total(read());
  return () => {
    const now = total(read());
    const [busy, all] = [now.busy - before.busy, now.all - before.all];
    before = now;
    return all > 0 ? (busy / all) * now.cpus : 0;
  };
}

function total(infos: Pick<CpuInfo, "times">[]): { busy: number; all: number; cpus: number } {
  let [busy, idle] = [0, 0];
  for (const { times } of infos) {
    busy += times.user + times.nice + times.sys + times.irq;
    idle += times.idle;
  }
  return { busy, all: busy + idle, cpus: infos.length };
}
