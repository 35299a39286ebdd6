import { existsSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";

/** Clock ticks a second in /proc, the same on every Linux that Node runs on. */
const TICKS = 100;

/** CPU time of a process and all of its threads since it began, in microseconds. */
export function cpuMicros(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  // The name in parentheses may hold spaces. After it: state is field 3, utime 14, stime 15.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return ((Number(fields[11]) + Number(fields[12])) * 1_000_000) / TICKS;
}

/** Memory of a process in bytes, shared pages divided among those who share them. */
export function proportionalMemory(pid: number): number {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  return Number(/^Pss:\s+(\d+) kB/m.exec(rollup)?.[1] ?? Number.NaN) * 1024;
}

/** The core that measured processes have to themselves, and the cores of the rest. */
export interface Cores {
  measured: string;
  others: string;
}

/** Undefined where there is one core only, or no taskset. */
export function splitCores(): Cores | undefined {
  const count = availableParallelism();
  if (count < 2 || !existsSync("/usr/bin/taskset")) return undefined;
  return { measured: String(count - 1), others: `0-${count - 2}` };
}
