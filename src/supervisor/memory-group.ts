import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { findCgroup, read } from "../lib/cgroup.ts";
import { processStart } from "../lib/process-start.ts";

/** A cgroup of one process with a hard memory limit. */
export interface MemoryGroup {
  /** File that takes the process id; written before the process loads anything, so that all it touches is charged to it. */
  procsFile: string;
  /** How often the kernel killed in this group for memory. Tells an out-of-memory kill from any other SIGKILL. */
  oomKills(): number;
  /** True when the group is gone. False while a process still leaves it: to be tried again. */
  remove(): boolean;
}

export interface MemoryGroups {
  version: 1 | 2;
  /** Throws when the kernel refuses. `name` is unique in this process. */
  create(name: string, limitBytes: number): MemoryGroup;
  /** Kills what dead supervisors left behind, and removes their groups, which may take until the killed are gone. Returns how many there were. */
  removeLeftovers(): number;
}

/** Who owns the groups, and where the system's files are: `root` and `mkdir` are given by tests, where no kernel fills a new folder. */
export interface HostView {
  pid: number;
  kill(pid: number): void;
  root?: string;
  mkdir?: (dir: string) => void;
}

const PREFIX = "llmpool-";

/** Several supervisors may live in one process. */
let probes = 0;

/**
 * The memory controller this process may make groups under, by really making one and entering it. Undefined: no controller, read-only, or not delegated to
 * this user. Groups live under our own; on version 2, where a group that holds processes can hold no limited groups, beside it.
 */
export function findMemoryGroups(host: HostView): MemoryGroups | undefined {
  const root = host.root ?? "/";
  const own = findCgroup("memory", root);
  if (!own) return undefined;
  const beside = own.version === 2 && own.dir !== own.mount ? [dirname(own.dir)] : [];
  const owner = `${host.pid}-${processStart(host.pid, root) ?? 0}`;
  for (const home of [own.dir, ...beside]) {
    const groups = groupsIn(home, own.version, owner, host);
    try {
      const probe = groups.create(`probe${probes++}`, 2 ** 30);
      try {
        execFileSync("/bin/sh", ["-c", 'echo $$ > "$0"', probe.procsFile], { stdio: "ignore" });
      } finally {
        void removeSoon(probe);
      }
      return groups;
    } catch {
      // Not ours to write: the next home, else the watchdog.
    }
  }
  return undefined;
}

function groupsIn(home: string, version: 1 | 2, owner: string, host: HostView): MemoryGroups {
  return {
    version,
    create(name, limitBytes) {
      if (version === 2) tryWrite(join(home, "cgroup.subtree_control"), "+memory");
      const dir = join(home, `${PREFIX}${owner}-${name}`);
      (host.mkdir ?? mkdirSync)(dir);
      try {
        limit(dir, version, limitBytes);
      } catch (error) {
        rmdirSync(dir);
        throw error;
      }
      return {
        procsFile: join(dir, "cgroup.procs"),
        oomKills: () => oomKills(dir, version),
        remove: () => remove(dir),
      };
    },
    removeLeftovers() {
      const left = readdirSync(home).filter((name) => isLeftover(name, host));
      for (const name of left) {
        const dir = join(home, name);
        for (const orphan of read(join(dir, "cgroup.procs")).split("\n").filter(Boolean)) host.kill(Number(orphan));
        void removeSoon({ remove: () => remove(dir) });
      }
      return left.length;
    },
  };
}

/** A group stays busy for a moment after its last process. These timers keep the process alive on purpose: it must not end before. */
export async function removeSoon(group: Pick<MemoryGroup, "remove">): Promise<void> {
  for (let tries = 0; tries < 50 && !group.remove(); tries++) await setTimeout(100);
}

/** Made by a supervisor that is dead. */
function isLeftover(name: string, host: HostView): boolean {
  const [, pid, start] = /^llmpool-(\d+)-(\d+)-/.exec(name) ?? [];
  return pid !== undefined && processStart(Number(pid), host.root) !== start;
}

function limit(dir: string, version: 1 | 2, bytes: number): void {
  if (version === 1) {
    writeFileSync(join(dir, "memory.limit_in_bytes"), String(bytes));
    tryWrite(join(dir, "memory.memsw.limit_in_bytes"), String(bytes));
    return;
  }
  // A plain folder, or a group without the controller, has no such file, and writing would make one or fail unclearly.
  if (!existsSync(join(dir, "memory.max"))) throw new Error("the memory controller is not delegated");
  writeFileSync(join(dir, "memory.max"), String(bytes));
  tryWrite(join(dir, "memory.swap.max"), "0");
  tryWrite(join(dir, "memory.oom.group"), "1");
}

function oomKills(dir: string, version: 1 | 2): number {
  const counters = read(join(dir, version === 1 ? "memory.oom_control" : "memory.events"));
  const kills = /^oom_kill (\d+)$/m.exec(counters)?.[1];
  // Kernels before 4.13 count only how often the limit was hit; a process killed there was killed for that.
  return Number(kills ?? read(join(dir, "memory.failcnt")).trim());
}

function remove(dir: string): boolean {
  try {
    rmdirSync(dir);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOENT";
  }
}

function tryWrite(path: string, text: string): void {
  try {
    if (existsSync(path)) writeFileSync(path, text);
  } catch {
    // A part that only some kernels have.
  }
}
