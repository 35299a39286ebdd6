import { readdirSync, readFileSync } from "node:fs";
import { findCgroup } from "../../src/lib/cgroup.ts";

/** Pids of all living instance processes of this machine. */
export function instanceProcesses(): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => pid > 0 && isInstance(pid));
}

function isInstance(pid: number): boolean {
  try {
    // A zombie has no command line any more.
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("runtime-image/main");
  } catch {
    return false;
  }
}

/** Names of the memory groups of ours, of whatever owner. */
export function memoryGroups(): string[] {
  const group = findCgroup("memory");
  return group ? readdirSync(group.dir).filter((name) => name.startsWith("llmpool-")) : [];
}
