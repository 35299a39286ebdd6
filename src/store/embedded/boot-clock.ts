import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { uptime } from "node:os";

/** Time that goes on while no process of ours runs. */
export interface BootClock {
  /** Differs after each boot of the machine; "" where that is not known. */
  readonly bootId: string;
  /** Milliseconds since the boot, sleep included. */
  now(): number;
}

/**
 * Linux: the kernel's boot id, and CLOCK_BOOTTIME, which is what /proc/uptime and so `os.uptime` shows. macOS: the boot session's UUID, and
 * the time since `kern.boottime`, which the kernel moves along when the wall clock is stepped. Elsewhere there is no id, so across
 * restarts the wall clock decides.
 */
export function systemBootClock(): BootClock {
  return { bootId: bootId(), now: () => uptime() * 1000 };
}

function bootId(): string {
  try {
    if (process.platform === "linux") return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    if (process.platform === "darwin") {
      return execFileSync("/usr/sbin/sysctl", ["-n", "kern.bootsessionuuid"], { encoding: "utf8" }).trim();
    }
  } catch {
    // A sandbox without either: as on other systems.
  }
  return "";
}

/** An instant on all the clocks that can tell, later, how long ago it was. */
export interface Stamp {
  bootId: string;
  bootMs: number;
  /** Unix milliseconds. */
  wallMs: number;
}

/**
 * Milliseconds from `then` to `now`, never negative: by the boot clock within one boot, else by the wall clock. A boot clock that went
 * back within one boot (a container whose uptime is its own) is not believed.
 */
export function elapsedMs(then: Stamp, now: Stamp): number {
  const sameBoot = then.bootId !== "" && then.bootId === now.bootId && now.bootMs >= then.bootMs;
  return Math.max(0, sameBoot ? now.bootMs - then.bootMs : now.wallMs - then.wallMs);
}
