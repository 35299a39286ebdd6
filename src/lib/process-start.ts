import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";

/**
 * When a process started, as a text that never changes: with its pid it names one process, also after the pid was given to another.
 * Undefined when there is no such process. `root` is where the system's files are (tests).
 */
export function processStart(pid: number, root = "/"): string | undefined {
  if (process.platform !== "linux") return fromPs(pid);
  try {
    const stat = readFileSync(join(root, `proc/${pid}/stat`), "utf8");
    // Field 2 may hold spaces and brackets. Field 3 is the state: Z has ended, and only its parent has not looked yet.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    // Field 22, in clock ticks since boot.
    return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

function fromPs(pid: number): string | undefined {
  try {
    const args = ["-o", "lstart=", "-p", String(pid)];
    return execFileSync("ps", args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim() || undefined;
  } catch {
    return undefined;
  }
}
