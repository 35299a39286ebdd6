import { readFileSync } from "node:fs";
import { join, normalize } from "node:path";

/** The control group of this process for one controller, as a folder of this machine. */
export interface Cgroup {
  version: 1 | 2;
  dir: string;
  /** Where the hierarchy is mounted: `dir` is this or below it. */
  mount: string;
}

/** Undefined where there is none: not Linux, or not mounted. `root` is where the system's files are (tests). */
export function findCgroup(controller: "memory" | "cpu", root = "/"): Cgroup | undefined {
  const own = read(join(root, "proc/self/cgroup"))
    .split("\n")
    .map((line) => /^\d+:([^:]*):(.*)$/.exec(line));
  const mounts = read(join(root, "proc/self/mountinfo")).split("\n").map(parseMount);
  const v1 = own.find((line) => line?.[1]?.split(",").includes(controller));
  const path = (v1 ?? own.find((line) => line?.[1] === ""))?.[2];
  const mount = v1
    ? mounts.find((m) => m.type === "cgroup" && m.options.includes(controller))
    : mounts.find((m) => m.type === "cgroup2");
  if (path === undefined || !mount) return undefined;
  // In a container the path may be given from the host's root, of which only a part is mounted.
  const inside = mount.root !== "/" && path.startsWith(mount.root) ? path.slice(mount.root.length) : path;
  const top = join(root, mount.point);
  return { version: v1 ? 1 : 2, dir: normalize(join(top, inside)).replace(/(.)\/$/, "$1"), mount: top };
}

/** The text of a file, "" when it cannot be read. */
export function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** A line of /proc/self/mountinfo: `31 23 0:28 <root> <point> <options> [tags] - <type> <source> <super options>`. */
function parseMount(line: string): { root: string; point: string; type: string; options: string[] } {
  const [left = "", right = ""] = line.split(" - ");
  const [, , , root = "", point = ""] = left.split(" ");
  const [type = "", , options = ""] = right.split(" ");
  return { root, point, type, options: options.split(",") };
}
