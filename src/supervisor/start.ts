import type { Clock } from "../lib/clock.ts";
import { makeOtherCpus } from "../lib/cpus.ts";
import type { Logger } from "../lib/logger.ts";
import { runtimeEntry } from "./entry.ts";
import { findMemoryGroups } from "./memory-group.ts";
import { makeLaunch } from "./process.ts";
import { Supervisor } from "./supervisor.ts";
import { MemoryWatchdog } from "./watchdog.ts";

export interface LocalOptions {
  clock: Clock;
  log: Logger;
  /** The environment of which instances may see a part. */
  env: Readonly<Record<string, string | undefined>>;
  /** CPUs the instances may use together. */
  cpus: number;
  random?: () => number;
}

/** A supervisor of real processes on this machine. Ends first what a supervisor that was killed could not. */
export function makeSupervisor({ clock, log, env, cpus, random = Math.random }: LocalOptions): Supervisor {
  const groups = findMemoryGroups({ pid: process.pid, kill });
  const leftovers = groups?.removeLeftovers() ?? 0;
  if (leftovers > 0) log.warn("removed what a killed supervisor had left", { memoryGroups: leftovers });
  log.debug("memory limits", { by: groups ? `cgroup v${groups.version}` : "watchdog" });
  const launch = makeLaunch({ clock, env, entry: runtimeEntry(), groups, watchdog: new MemoryWatchdog(clock) });
  return new Supervisor({ clock, random, log, cpus, otherCpus: makeOtherCpus(), launch });
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // ESRCH: it has ended by itself.
  }
}
