import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
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
  /** Kills what a dead supervisor left behind, and removes its groups. Returns how many. */
  removeLeftovers(): number;
}

/** Who owns the groups, and where the system's files are: `root` and `mkdir` are given by tests, where no kernel fills a new folder. */
export interface HostView {
  pid: number;
  kill(pid: number): void;
  root?: string;
  mkdir?: (dir: string) => void;
}

interface Controller {
  version: 1 | 2;
  /** Folders that may take our groups, best first. */
  homes: string[];
}

const PREFIX = "llmpool-";

/**
 * The memory controller this process may make groups under, by really making one and entering it. Undefined: no controller, read-only, or not delegated to
 * this user. Groups live under our own; on version 2, where a group that holds processes can hold no limited groups, beside it.
 */
export function findMemoryGroups(host: HostView): MemoryGroups | undefined {
  const root = host.root ?? "/";
  const controller = findController(root);
  const owner = `${host.pid}-${processStart(host.pid, root) ?? 0}`;
  for (const home of controller?.homes ?? []) {
    const version = controller?.version ?? 1;
    const groups = groupsIn(home, version, owner, host);
    try {
      const probe = groups.create("probe", 2 ** 30);
      try {
        execFileSync("/bin/sh", ["-c", 'echo $$ > "$0"', probe.procsFile], { stdio: "ignore" });
      } finally {
        probe.remove();
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
      let removed = 0;
      for (const name of readdirSync(home)) {
        const [, pid, start] = /^llmpool-(\d+)-(\d+)-/.exec(name) ?? [];
        if (!pid || processStart(Number(pid), host.root) === start) continue;
        const dir = join(home, name);
        for (const orphan of read(join(dir, "cgroup.procs")).split("\n").filter(Boolean)) host.kill(Number(orphan));
        if (remove(dir)) removed += 1;
      }
      return removed;
    },
  };
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

function findController(root: string): Controller | undefined {
  const own = read(join(root, "proc/self/cgroup")).split("\n");
  const mounts = read(join(root, "proc/self/mountinfo")).split("\n").map(parseMount);
  const v1 = own.map((line) => line.split(":")).find(([, controllers]) => controllers?.split(",").includes("memory"));
  if (v1) {
    const mount = mounts.find((m) => m.type === "cgroup" && m.options.includes("memory"));
    return mount && { version: 1, homes: [join(root, inMount(mount, v1.slice(2).join(":")))] };
  }
  const v2 = own.find((line) => line.startsWith("0::"))?.slice(3);
  const mount = mounts.find((m) => m.type === "cgroup2");
  if (!mount || v2 === undefined) return undefined;
  const home = inMount(mount, v2);
  const homes = home === mount.point ? [home] : [home, join(home, "..")];
  return { version: 2, homes: homes.map((path) => join(root, path)) };
}

interface Mount {
  root: string;
  point: string;
  type: string;
  options: string[];
}

/** A line of /proc/self/mountinfo: `31 23 0:28 <root> <point> <options> [tags] - <type> <source> <super options>`. */
function parseMount(line: string): Mount {
  const [left = "", right = ""] = line.split(" - ");
  const [, , , root = "", point = ""] = left.split(" ");
  const [type = "", , options = ""] = right.split(" ");
  return { root, point, type, options: options.split(",") };
}

/** In a container the group's path may be given from the host's root, of which only a part is mounted. */
function inMount(mount: Mount, path: string): string {
  const relative = mount.root !== "/" && path.startsWith(mount.root) ? path.slice(mount.root.length) : path;
  return join(mount.point, relative);
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function tryWrite(path: string, text: string): void {
  try {
    if (existsSync(path)) writeFileSync(path, text);
  } catch {
    // A part that only some kernels have.
  }
}
