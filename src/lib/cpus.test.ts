import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { availableCpus, makeOtherCpus } from "./cpus.ts";

const roots: string[] = [];
afterEach(() => {
  for (const root of roots.splice(0)) rmSync(root, { recursive: true, force: true });
});

function machine(files: Record<string, string>): string {
  const root = mkdtempSync(join(tmpdir(), "llmpool-cpus-"));
  roots.push(root);
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(root, dirname(path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}

const v1 = {
  "proc/self/cgroup": "5:memory:/x\n3:cpu,cpuacct:/pod/box\n0::/\n",
  "proc/self/mountinfo": "34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
};
const v2 = {
  "proc/self/cgroup": "0::/pod/box\n",
  "proc/self/mountinfo": "25 20 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
};
const cpu = "sys/fs/cgroup/cpu,cpuacct/pod";

const rows: { name: string; given: Record<string, string>; want: number }[] = [
  { name: "no control groups", given: {}, want: 8 },
  {
    name: "version 1, no limit",
    given: { ...v1, [`${cpu}/box/cpu.cfs_quota_us`]: "-1\n", [`${cpu}/box/cpu.cfs_period_us`]: "100000\n" },
    want: 8,
  },
  {
    name: "version 1",
    given: { ...v1, [`${cpu}/box/cpu.cfs_quota_us`]: "250000\n", [`${cpu}/box/cpu.cfs_period_us`]: "100000\n" },
    want: 2,
  },
  { name: "version 2, no limit", given: { ...v2, "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n" }, want: 8 },
  { name: "version 2", given: { ...v2, "sys/fs/cgroup/pod/box/cpu.max": "350000 100000\n" }, want: 3 },
  {
    name: "the limit of a group above",
    given: { ...v2, "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n", "sys/fs/cgroup/pod/cpu.max": "200000 100000\n" },
    want: 2,
  },
  { name: "less than one", given: { ...v2, "sys/fs/cgroup/pod/box/cpu.max": "20000 100000\n" }, want: 1 },
];

test.each(rows)("$name", ({ given, want }) => {
  expect(availableCpus(machine(given), 8)).toBe(want);
});

test("this machine has at least one, and no more than Node sees", () => {
  expect(availableCpus()).toBeGreaterThanOrEqual(1);
  expect(availableCpus()).toBeLessThanOrEqual(availableParallelism());
});

describe("CPUs that others keep busy", () => {
  const none = { user: 0, nice: 0, sys: 0, idle: 0, irq: 0 };
  const second = [{ times: { ...none, user: 600, sys: 400 } }, { times: { ...none, idle: 500, nice: 250, irq: 250 } }];
  const start = second.map(() => ({ times: none }));

  test("is what the machine was busy with, less what our processes used", () => {
    let now = start;
    let used = 10;
    const otherCpus = makeOtherCpus(
      () => now,
      () => used,
    );
    expect(otherCpus({ pids: [1], threads: 2 })).toBe(0);
    now = second;
    used += 0.75;
    expect(otherCpus({ pids: [1], threads: 2 })).toBe(0.75);
    expect(otherCpus({ pids: [1], threads: 2 })).toBe(0);
  });

  test("counts our threads as busy where the system does not tell what a process used", () => {
    let now = start;
    const otherCpus = makeOtherCpus(
      () => now,
      () => undefined,
    );
    now = second;
    expect(otherCpus({ pids: [1], threads: 1 })).toBe(0.5);
  });

  test("sees on this machine what a busy process of ours uses", async () => {
    const otherCpus = makeOtherCpus();
    const own = { pids: [process.pid], threads: 1 };
    otherCpus(own);
    const until = process.cpuUsage().user + 300_000;
    while (process.cpuUsage().user < until);
    const withUs = otherCpus(own);
    expect(withUs).toBeLessThanOrEqual(availableParallelism());
    expect(withUs).toBeGreaterThanOrEqual(0);
  });
});
