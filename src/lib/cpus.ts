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

/** What of ours computes: its processes, and with how many threads at most. */
export interface OwnLoad {
  pids: readonly number[];
  threads: number;
}

/** Clock ticks of /proc in a second, on every Linux there is. */
const TICKS = 100;

/**
 * A function that tells how many CPUs of the machine were busy for others than us, on average, since its last call. Where the system does
 * not tell what a process used, our threads count as busy all the time.
 */
export function makeOtherCpus(
  readAll: () => Pick<CpuInfo, "times">[] = cpus,
  usedSeconds: (pid: number) => number | undefined = secondsOf,
): (own: OwnLoad) => number {
  let before = total(readAll());
  let used = new Map<number, number>();
  return ({ pids, threads }) => {
    const now = total(readAll());
    const [busy, all] = [now.busy - before.busy, now.all - before.all];
    before = now;
    const seconds = all / now.cpus / 1000;
    let own = 0;
    const next = new Map<number, number>();
    for (const pid of pids) {
      const sum = usedSeconds(pid);
      if (sum === undefined) continue;
      next.set(pid, sum);
      own += sum - (used.get(pid) ?? sum);
    }
    used = next;
    if (!(seconds > 0)) return 0;
    const ours = next.size > 0 ? own / seconds : threads;
    return Math.max(0, (busy / all) * now.cpus - ours);
  };
}

function secondsOf(pid: number): number | undefined {
  // Fields 14 and 15, counted after the name, which may hold anything.
  const fields = read(`/proc/${pid}/stat`).split(") ").pop()?.split(" ") ?? [];
  const ticks = Number(fields[11]) + Number(fields[12]);
  return Number.isFinite(ticks) ? ticks / TICKS : undefined;
}

/** In milliseconds, over all CPUs. */
function total(infos: Pick<CpuInfo, "times">[]): { busy: number; all: number; cpus: number } {
  let [busy, idle] = [0, 0];
  for (const { times } of infos) {
    busy += times.user + times.nice + times.sys + times.irq;
    idle += times.idle;
  }
  return { busy, all: busy + idle, cpus: infos.length };
}
