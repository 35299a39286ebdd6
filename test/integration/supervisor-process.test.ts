import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import type { InstanceMessage } from "../../src/api/instance.ts";
import { systemClock } from "../../src/lib/clock.ts";
import type { ProcessEnd } from "../../src/supervisor/failure.ts";
import { explainEnd } from "../../src/supervisor/failure.ts";
import { findMemoryGroups, type MemoryGroups } from "../../src/supervisor/memory-group.ts";
import { makeLaunch, type RunningProcess } from "../../src/supervisor/process.ts";
import { MemoryWatchdog } from "../../src/supervisor/watchdog.ts";
import { eventually } from "../support/eventually.ts";
import { processSpec } from "../support/process-spec.ts";

const groups = findMemoryGroups({ pid: process.pid, kill: () => {} });
const started: RunningProcess[] = [];
afterEach(() => {
  for (const one of started.splice(0)) one.kill("SIGKILL");
});

/** One real process that does what `act` says (test/support/bare-instance.ts). */
function start(act: string, options: { limitMiB?: number; groups?: MemoryGroups | undefined } = {}) {
  const launch = makeLaunch({
    clock: systemClock,
    env: process.env,
    entry: join(import.meta.dirname, "../support/bare-instance.ts"),
    groups: options.groups,
    watchdog: new MemoryWatchdog(systemClock),
  });
  const messages: InstanceMessage[] = [];
  const lines: string[] = [];
  const seen: { end?: ProcessEnd } = {};
  const limit = options.limitMiB === undefined ? {} : { memoryLimitBytes: options.limitMiB * 2 ** 20 };
  const running = launch(processSpec("0", { ...limit, config: { warmupPrompt: act } }), {
    onMessage: (message) => messages.push(message),
    onLine: (line) => lines.push(line),
    onEnd: (end) => {
      seen.end = end;
    },
  });
  started.push(running);
  return {
    running,
    lines,
    ready: () => eventually("ready", () => messages.some((message) => message.type === "ready")),
    failure: async () => explainEnd(await eventually("end", () => seen.end)),
  };
}

const alive = (pid: number): boolean => {
  try {
    // A zombie whose parent has not looked yet is dead all the same.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
};

test("a process gets its orders and obeys a drain", async () => {
  const one = start("nothing");
  await one.ready();
  one.running.send({ type: "drain", deadlineMs: 1000 });
  expect(await one.failure()).toMatchObject({ reason: "ExitCode", message: expect.stringContaining("exit code 0") });
});

test("a kill -9 from outside is a signal, also under a memory limit", async () => {
  const one = start("nothing", { limitMiB: 512, groups });
  await one.ready();
  process.kill(one.running.pid ?? 0, "SIGKILL");
  expect(await one.failure()).toMatchObject({ reason: "Signal", message: expect.stringContaining("SIGKILL") });
});

test("the last message of a process that goes at once is heard", async () => {
  expect(await start("fail").failure()).toMatchObject({ reason: "ModelInvalid", message: "no magic", lasting: true });
});

test("an exception's own line is the message", async () => {
  expect((await start("throw").failure()).message).toBe("exit code 1: TypeError: thrown on purpose");
});

test("a native abort says that the caches are lost", async () => {
  expect((await start("abort").failure()).message).toMatch(/^SIGABRT \(native abort, its KV caches are lost\)/);
});

test("what a process started itself ends with it", async () => {
  const one = start("parent");
  const line = await eventually("grandchild", () => one.lines.find((text) => text.startsWith("child ")));
  const grandchild = Number(line.slice("child ".length));
  expect(alive(grandchild)).toBe(true);
  process.kill(one.running.pid ?? 0, "SIGKILL");
  await one.failure();
  await eventually("grandchild gone", () => !alive(grandchild));
});

test("a program that is not there is an end, not an exception", async () => {
  const launch = makeLaunch({
    clock: systemClock,
    env: process.env,
    entry: "/nonexistent/main.ts",
    groups: undefined,
    watchdog: new MemoryWatchdog(systemClock),
  });
  const end = await new Promise<ProcessEnd>((onEnd) => {
    launch(processSpec("0"), { onMessage: () => {}, onLine: () => {}, onEnd });
  });
  expect(explainEnd(end).message).toMatch(/Cannot find module/);
});

describe("memory limit", () => {
  test.skipIf(!groups)("the kernel's: the end is told from other kills, and the group is gone", async () => {
    const one = start("allocate", { limitMiB: 160, groups });
    expect(await one.failure()).toMatchObject({ reason: "OutOfMemory", message: expect.stringContaining("160 MiB") });
    expect(ownGroups()).toEqual([]);
  });

  test("the watchdog's, where there are no groups", async () => {
    const one = start("nothing", { limitMiB: 8 });
    expect(await one.failure()).toMatchObject({ reason: "OutOfMemory", message: expect.stringContaining("8 MiB") });
  });

  test("a process within its limit is left alone by both", async () => {
    const pair = [start("nothing", { limitMiB: 512, groups }), start("nothing", { limitMiB: 512 })];
    for (const one of pair) await one.ready();
    for (const one of pair) one.running.send({ type: "drain", deadlineMs: 0 });
    for (const one of pair) expect((await one.failure()).message).toContain("exit code 0");
    expect(ownGroups()).toEqual([]);
  });
});

/** Memory groups that this test process owns. */
function ownGroups(): string[] {
  const line = readFileSync("/proc/self/cgroup", "utf8").match(/^\d+:(?:\S*,)?memory(?:,\S*)?:(.*)$/m);
  const home = line ? join("/sys/fs/cgroup/memory", line[1] ?? "") : undefined;
  return home ? readdirSync(home).filter((name) => name.startsWith(`llmpool-${process.pid}-`)) : [];
}
