import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { silentLogger } from "../../src/lib/logger.ts";
import { InstanceClient } from "../../src/supervisor/instance-client.ts";
import type { ProcessSpec } from "../../src/supervisor/spec.ts";
import { makeSupervisor } from "../../src/supervisor/start.ts";
import type { Supervisor } from "../../src/supervisor/supervisor.ts";
import { eventually } from "../support/eventually.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { processSpec } from "../support/process-spec.ts";
import { instanceProcesses } from "../support/processes.ts";
import { tempDir } from "../support/temp-dir.ts";

/** Real stub processes under a supervisor whose time stands still until a test moves it. */
let supervisor: Supervisor;
let clock: FakeClock;
let client: InstanceClient;
let paths: { tokenFile: string; stateDir: string };

beforeEach(async () => {
  const folder = await tempDir();
  const token = randomBytes(8).toString("hex");
  paths = { tokenFile: join(folder, "token"), stateDir: folder };
  writeFileSync(paths.tokenFile, token);
  clock = new FakeClock();
  client = new InstanceClient(token);
  supervisor = makeSupervisor({ clock, log: silentLogger, env: process.env, cpus: 2 });
});
afterEach(async () => {
  const closing = supervisor.close(0);
  clock.advance(1);
  await closing;
  await client.close();
});

const pool = (count: number, change: Partial<ProcessSpec> = {}): ProcessSpec[] =>
  Array.from({ length: count }, (_, i) => processSpec(String(i), { ...change, config: paths }));
const get = (id: string) => supervisor.list().find((one) => one.id === id);
const pids = () => supervisor.list().map((one) => one.pid);
const allReady = (count: number) =>
  eventually("all ready", () => {
    const all = supervisor.list();
    return all.length === count && all.every((one) => one.state === "Ready");
  });
const call = (prompt: string) => ({
  sessionId: undefined,
  messages: [{ role: "user" as const, content: prompt }],
  maxNewTokens: undefined,
  timeoutMs: 60_000,
  stop: [],
  temperature: undefined,
  seed: undefined,
  signal: undefined,
});

test.each([
  { name: "stopped", hang: (pid: number) => process.kill(pid, "SIGSTOP") },
  {
    name: "caught in an endless loop",
    hang: async () => {
      const events = client.chat(get("0")?.url ?? "", call("!stub hang=1 interTokenMs=5"));
      // The first token comes, then nothing ever again.
      await events.next();
      events.next().catch(() => {});
      const url = `${get("0")?.url}/healthz`;
      await eventually("silence", () =>
        fetch(url, { signal: AbortSignal.timeout(500) }).then(
          () => false,
          () => true,
        ),
      );
    },
  },
])("a process that is $name is killed after three silent probes and comes back", async ({ hang }) => {
  supervisor.apply(pool(2));
  await allReady(2);
  const [victim = 0, neighbour] = pids();
  await hang(victim);
  // Asked three times, judged when the next question is due.
  for (let i = 0; i < 4; i++) {
    clock.advance(5000);
    // The neighbour's answer has to arrive before the next look.
    await fetch(`${get("1")?.url}/healthz`);
    await new Promise((resolve) => setImmediate(resolve));
  }
  await eventually("killed", () => get("0")?.lastFailure?.reason === "Unresponsive");
  clock.advance(2000);
  await allReady(2);
  expect(pids()[0]).not.toBe(victim);
  expect(pids()[1]).toBe(neighbour);
});

test("an unwanted instance ends its open stream first; the rest stays", async () => {
  supervisor.apply(pool(2));
  await allReady(2);
  const events = client.chat(get("1")?.url ?? "", call("!stub replyTokens=40 interTokenMs=10"));
  await events.next();
  supervisor.apply(pool(1));
  expect(get("1")?.state).toBe("Draining");
  let last: unknown;
  for await (const event of events) last = event;
  expect(last).toMatchObject({ type: "done", usage: { completionTokens: 40 } });
  await eventually("gone", () => supervisor.list().length === 1);
  expect(get("0")?.state).toBe("Ready");
});

test("a new revision of one replaces that one alone, under another uid", async () => {
  supervisor.apply(pool(3));
  await allReady(3);
  const before = supervisor.list();
  const [first, second, third] = pool(3);
  supervisor.apply([first, second && { ...second, revision: "b" }, third].filter((spec) => spec !== undefined));
  await eventually("replaced", () => get("1")?.state === "Ready" && get("1")?.uid !== before[1]?.uid);
  expect([get("0"), get("2")].map((one) => one?.pid)).toEqual([before[0]?.pid, before[2]?.pid]);
  expect(get("1")?.pid).not.toBe(before[1]?.pid);
  expect(get("1")?.restarts).toBe(0);
});

test("a configuration that no process can be started with says which field, and is tried once a minute", async () => {
  supervisor.apply([processSpec("0", { config: { ...paths, contextTokens: 0 } })]);
  await eventually("failed", () => get("0")?.state === "Failed");
  expect(get("0")?.lastFailure).toMatchObject({ reason: "ConfigInvalid", lasting: true });
  expect(get("0")?.message).toContain("contextTokens");
  clock.advance(59_000);
  expect(get("0")?.state).toBe("Failed");
  supervisor.apply(pool(1, { revision: "cured" }));
  await allReady(1);
});

test("close drains all at once, and no process is left", async () => {
  supervisor.apply(pool(3));
  await allReady(3);
  const running = pids();
  await supervisor.close(60_000);
  expect(instanceProcesses().filter((pid) => running.includes(pid))).toEqual([]);
});
