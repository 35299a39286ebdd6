import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { findMemoryGroups } from "./memory-group.ts";

/** A file tree that looks like a machine's. New folders stay empty, as on a mount without the controller. */
const roots: string[] = [];
function machine(files: Record<string, string>): string {
  const root = mkdtempSync(join(tmpdir(), "llmpool-cgroup-"));
  roots.push(root);
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(root, path, ".."), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}
afterEach(() => {
  for (const root of roots.splice(0)) rmSync(root, { recursive: true, force: true });
});

const stat = (start: number) => `7 (a (b) c) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 ${start} 0 0\n`;
const host = (root: string) => ({ root, pid: 7, kill: () => {} });

describe("version 1", () => {
  const files = {
    "proc/self/cgroup": "4:memory:/outer/own\n0::/\n",
    "proc/self/mountinfo": "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n",
    "proc/7/stat": stat(99),
    "sys/fs/cgroup/memory/outer/own/memory.limit_in_bytes": "9223372036854771712",
  };
  const own = "sys/fs/cgroup/memory/outer/own";

  test("makes a group with the limit under its own, named after the owner", () => {
    const root = machine(files);
    const group = findMemoryGroups(host(root))?.create("0", 1000);
    expect(group?.procsFile).toBe(join(root, own, "llmpool-7-99-0/cgroup.procs"));
    expect(readFileSync(join(root, own, "llmpool-7-99-0/memory.limit_in_bytes"), "utf8")).toBe("1000");
  });

  test("tells a kill for memory from none, with the counter or, on an old kernel, by the limit's hits", () => {
    const root = machine(files);
    const group = findMemoryGroups(host(root))?.create("0", 1000);
    const dir = join(root, own, "llmpool-7-99-0");
    writeFileSync(join(dir, "memory.failcnt"), "12\n");
    expect(group?.oomKills()).toBe(12);
    writeFileSync(join(dir, "memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
    expect(group?.oomKills()).toBe(0);
    writeFileSync(join(dir, "memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
    expect(group?.oomKills()).toBe(1);
  });

  test("finds its group when a container sees only a part of the tree", () => {
    const mountinfo = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    const root = machine({
      ...files,
      "proc/self/cgroup": "4:memory:/docker/abc\n",
      "proc/self/mountinfo": mountinfo,
    });
    const file = findMemoryGroups(host(root))?.create("0", 1).procsFile;
    expect(file).toBe(join(root, "sys/fs/cgroup/memory/llmpool-7-99-0/cgroup.procs"));
  });

  test("kills and removes what a dead supervisor left, and leaves a living one's", () => {
    const root = machine({
      ...files,
      "proc/8/stat": stat(50),
      [`${own}/llmpool-6-10-0/cgroup.procs`]: "4001\n4002\n",
      [`${own}/llmpool-8-49-0/cgroup.procs`]: "4003\n",
      [`${own}/llmpool-8-50-0/cgroup.procs`]: "4004\n",
      [`${own}/other/cgroup.procs`]: "4005\n",
    });
    const killed: number[] = [];
    findMemoryGroups({ root, pid: 7, kill: (pid) => killed.push(pid) })?.removeLeftovers();
    expect(killed).toEqual([4001, 4002, 4003]);
  });
});

describe("version 2", () => {
  const files = {
    "proc/self/cgroup": "0::/user.slice/app.slice/term.scope\n",
    "proc/self/mountinfo": "25 20 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "proc/7/stat": stat(99),
    "sys/fs/cgroup/user.slice/app.slice/term.scope/cgroup.subtree_control": "",
  };

  test("where the controller is not delegated, there are no groups and nothing is left", () => {
    const root = machine(files);
    expect(findMemoryGroups(host(root))).toBeUndefined();
    const left = readdirSync(join(root, "sys/fs/cgroup/user.slice"), { recursive: true, encoding: "utf8" });
    expect(left.filter((name) => name.includes("llmpool"))).toEqual([]);
  });
});

describe("version 2, delegated", () => {
  const scope = "sys/fs/cgroup/user.slice/app.slice/term.scope";
  const files = {
    "proc/self/cgroup": "0::/user.slice/app.slice/term.scope\n",
    "proc/self/mountinfo": "25 20 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "proc/7/stat": stat(99),
    [`${scope}/cgroup.subtree_control`]: "",
    "sys/fs/cgroup/user.slice/app.slice/cgroup.subtree_control": "",
  };
  /** The kernel puts a controller's files into a new group when the parent has it enabled, which one that holds processes cannot. */
  const mkdir = (dir: string) => {
    mkdirSync(dir);
    if (dir.includes("term.scope")) return;
    const enabled = readFileSync(join(dir, "..", "cgroup.subtree_control"), "utf8").includes("+memory");
    for (const file of enabled ? ["memory.max", "memory.oom.group", "memory.swap.max", "memory.events"] : []) {
      writeFileSync(join(dir, file), "");
    }
  };

  test("makes the group beside its own, with limit, no swap and one fate for all in it", () => {
    const root = machine(files);
    const groups = findMemoryGroups({ ...host(root), mkdir });
    const group = groups?.create("0", 1000);
    const dir = join(root, "sys/fs/cgroup/user.slice/app.slice/llmpool-7-99-0");
    const written = ["memory.max", "memory.swap.max", "memory.oom.group"].map((file) =>
      readFileSync(join(dir, file), "utf8"),
    );
    expect({ version: groups?.version, file: group?.procsFile, written }).toEqual({
      version: 2,
      file: join(dir, "cgroup.procs"),
      written: ["1000", "0", "1"],
    });
    writeFileSync(join(dir, "memory.events"), "low 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 1\n");
    expect(group?.oomKills()).toBe(2);
  });
});

test("a machine without cgroups has none", () => {
  expect(findMemoryGroups(host(machine({})))).toBeUndefined();
});
