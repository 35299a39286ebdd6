import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { type ManagerOptions, MultiInstanceManager, stub } from "../../src/supervisor/manager.ts";
import { eventually } from "../support/eventually.ts";
import { instanceProcesses, memoryGroups } from "../support/processes.ts";
import { tempDir } from "../support/temp-dir.ts";

const open: MultiInstanceManager[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((manager) => manager.close({ graceSeconds: 0 })));
});

const MIB = 2 ** 20;

function make(options: Partial<ManagerOptions> = {}): MultiInstanceManager {
  const manager = new MultiInstanceManager({ instances: 2, backendFactory: () => stub(), ...options });
  open.push(manager);
  return manager;
}
const pidOf = (manager: MultiInstanceManager, id: string): number =>
  manager.instances().find((one) => one.id === id)?.pid ?? Number.NaN;
const instance = (manager: MultiInstanceManager, id: string) => manager.instances().find((one) => one.id === id);

/** Streams a long answer; `text` grows meanwhile. */
function stream(manager: MultiInstanceManager, instanceId: string, tokens = 200) {
  const seen = { text: "", error: undefined as unknown };
  const done = (async () => {
    const events = manager.stream({ instanceId, prompt: `!stub replyTokens=${tokens} interTokenMs=20` });
    for await (const event of events) {
      if (event.type === "text") seen.text += event.text;
      else return event.result;
    }
    return undefined;
  })();
  done.catch((error: unknown) => {
    seen.error = error;
  });
  return { seen, done };
}

test("starts many, is ready only when all are warm, answers by instance and session, and leaves nothing", async () => {
  const folder = await tempDir();
  const manager = make({ instances: 4, env: { ...process.env, TMPDIR: folder } });
  expect(manager.ready()).toBe(false);
  await expect(manager.generate({ instanceId: 0, prompt: "hello" })).rejects.toMatchObject({
    code: "instance_unavailable",
  });
  const readyCounts: number[] = [];
  await manager.start({ onProgress: (all) => readyCounts.push(all.filter((one) => one.state === "Ready").length) });
  expect(manager.ready()).toBe(true);
  expect(readyCounts.at(-1)).toBe(4);
  expect(new Set(manager.instances().map((one) => one.pid)).size).toBe(4);

  const first = await manager.generate({ instanceId: 1, sessionId: "s", prompt: "hello there", maxNewTokens: 5 });
  expect(first).toMatchObject({
    instanceId: "1",
    sessionId: "s",
    finishReason: "length",
    usage: { completionTokens: 5 },
  });
  const again = await manager.generate({ instanceId: 1, sessionId: "s", prompt: "hello there", maxNewTokens: 5 });
  expect(again.text).toBe(first.text);
  expect(again.usage.cachedTokens).toBeGreaterThan(0);
  const elsewhere = await manager.generate({ instanceId: "2", sessionId: "s", prompt: "hello there", maxNewTokens: 5 });
  expect(elsewhere.usage.cachedTokens).toBe(0);

  const pids = manager.instances().map((one) => one.pid ?? 0);
  await manager.close();
  expect(instanceProcesses().filter((pid) => pids.includes(pid))).toEqual([]);
  expect(readdirSync(folder)).toEqual([]);
});

test("errors are typed: unknown instance, bad session, both prompts, what the instance refuses, its fault, an abort", async () => {
  const manager = make({ instances: 1 });
  await manager.start();
  const call = (options: object) => manager.generate({ instanceId: 0, prompt: "hi", ...options });
  await expect(call({ instanceId: 7 })).rejects.toMatchObject({ code: "not_found", param: "instanceId" });
  await expect(call({ sessionId: "no spaces" })).rejects.toMatchObject({ code: "invalid_request", param: "sessionId" });
  await expect(call({ messages: [] })).rejects.toMatchObject({ code: "invalid_request" });
  await expect(call({ prompt: "word ".repeat(10_000) })).rejects.toMatchObject({ code: "context_length_exceeded" });
  await expect(call({ prompt: "!stub break=3" })).rejects.toMatchObject({ name: "LLMPoolError" });
  await expect(call({ prompt: "!stub stall=2", timeoutSeconds: 0.3 })).rejects.toMatchObject({
    code: "request_timeout",
  });
  const stop = new AbortController();
  const stalled = call({ prompt: "!stub stall=2", signal: stop.signal });
  stop.abort(new Error("enough"));
  await expect(stalled).rejects.toThrow("enough");
});

test("one allocates past its limit while another streams: the stream goes on, the reason reads OutOfMemory, and it comes back", async () => {
  const manager = make({ backendFactory: () => stub({ memoryLimitBytes: 256 * MIB }) });
  await manager.start();
  const other = stream(manager, "1");
  await eventually("stream began", () => other.seen.text !== "");
  await expect(manager.generate({ instanceId: 0, prompt: "!stub leak=4096" })).rejects.toMatchObject({
    code: "upstream_error",
  });
  await eventually("reason", () => instance(manager, "0")?.lastFailure?.reason === "OutOfMemory");
  expect(instance(manager, "0")?.lastFailure?.message).toContain("memory limit of 256 MiB");
  expect((await other.done)?.usage.completionTokens).toBe(200);
  await eventually("back", () => manager.ready());
  expect(manager.instances().map((one) => one.restarts)).toEqual([1, 0]);
  await manager.generate({ instanceId: 0, prompt: "hello" });
});

test("a kill -9 of one touches no other, says the signal, and it comes back as another process", async () => {
  const manager = make();
  await manager.start();
  const [victim, neighbour] = [pidOf(manager, "0"), pidOf(manager, "1")];
  const cut = stream(manager, "0");
  const other = stream(manager, "1", 100);
  await eventually("streams began", () => cut.seen.text !== "" && other.seen.text !== "");
  process.kill(victim, "SIGKILL");
  await expect(cut.done).rejects.toMatchObject({ code: "upstream_error" });
  expect((await other.done)?.usage.completionTokens).toBe(100);
  await eventually("back", () => manager.ready());
  expect(instance(manager, "0")?.lastFailure).toMatchObject({
    reason: "Signal",
    message: expect.stringContaining("SIGKILL"),
  });
  expect(pidOf(manager, "0")).not.toBe(victim);
  expect(pidOf(manager, "1")).toBe(neighbour);
});

test("a model that is not there ends the start with its reason, and nothing runs", async () => {
  const manager = make({
    backendFactory: (i) =>
      i === 0
        ? stub()
        : {
            ...stub(),
            backend: "llama-cpp",
            model: { uri: "file:///nonexistent/m.gguf", sha256: "", quantization: "" },
          },
  });
  await expect(manager.start()).rejects.toThrow(/instance 1 cannot start: .*nonexistent/);
  expect(manager.instances()).toEqual([]);
});

test("an abort of the start leaves nothing", async () => {
  const manager = make();
  const stop = new AbortController();
  const starting = manager.start({ signal: stop.signal });
  await eventually("processes", () => manager.instances().some((one) => one.pid !== undefined));
  const pids = manager.instances().map((one) => one.pid ?? 0);
  stop.abort(new Error("changed my mind"));
  await expect(starting).rejects.toThrow("changed my mind");
  expect(instanceProcesses().filter((pid) => pids.includes(pid))).toEqual([]);
});

test("closed while it starts, it leaves no file", async () => {
  const TMPDIR = await tempDir();
  const manager = make({ env: { ...process.env, TMPDIR } });
  const starting = manager.start();
  await Promise.all([expect(starting).rejects.toMatchObject({ name: "LLMPoolError" }), manager.close()]);
  expect(readdirSync(TMPDIR)).toEqual([]);
});

test("close lets a stream end within the grace, and cuts what takes longer", async () => {
  const patient = make({ instances: 1 });
  await patient.start();
  const short = stream(patient, "0", 20);
  await eventually("stream began", () => short.seen.text !== "");
  await Promise.all([short.done, patient.close({ graceSeconds: 60 })]);

  const hasty = make({ instances: 1 });
  await hasty.start();
  const long = stream(hasty, "0", 4000);
  await eventually("stream began", () => long.seen.text !== "");
  await hasty.close({ graceSeconds: 0 });
  await expect(long.done).rejects.toMatchObject({ name: "LLMPoolError" });
});

test("a second close with a shorter grace hurries the first", async () => {
  const manager = make({ instances: 1 });
  await manager.start();
  const endless = stream(manager, "0", 4000);
  await eventually("stream began", () => endless.seen.text !== "");
  // The first alone would wait for longer than this test may take.
  const first = manager.close({ graceSeconds: 600 });
  await manager.close({ graceSeconds: 0 });
  await first;
  await expect(endless.done).rejects.toMatchObject({ name: "LLMPoolError" });
});

test("a program that exits in the middle leaves no file", async () => {
  const TMPDIR = await tempDir();
  const program = join(await tempDir(), "parent.ts");
  const managerFile = join(import.meta.dirname, "../../src/supervisor/manager.ts");
  writeFileSync(
    program,
    `import { MultiInstanceManager, stub } from ${JSON.stringify(managerFile)};
     for (let i = 0; i < 2; i++) await new MultiInstanceManager({ instances: 1, backendFactory: () => stub() }).start();
     process.exit(3);`,
  );
  const parent = spawn(process.execPath, [program], { stdio: "inherit", env: { ...process.env, TMPDIR } });
  expect(await once(parent, "exit")).toEqual([3, null]);
  expect(readdirSync(TMPDIR)).toEqual([]);
});

test.each(["SIGKILL", "SIGTERM", "SIGINT"] as const)(
  "%s of the parent leaves no instance and, after the next start, no memory group and no file",
  async (signal) => {
    // A process that is killed removes no file of its own.
    const TMPDIR = await tempDir();
    const program = join(TMPDIR, "parent.ts");
    const managerFile = join(import.meta.dirname, "../../src/supervisor/manager.ts");
    writeFileSync(
      program,
      `import { MultiInstanceManager, stub } from ${JSON.stringify(managerFile)};
     const manager = new MultiInstanceManager({ instances: 2, backendFactory: () => stub({ memoryLimitBytes: ${256 * MIB} }) });
     await manager.start();
     console.log(JSON.stringify(manager.instances().map((one) => one.pid)));
     setInterval(() => {}, 1000);`,
    );
    const env = { ...process.env, TMPDIR };
    const parent = spawn(process.execPath, [program], { stdio: ["ignore", "pipe", "inherit"], env });
    try {
      let out = "";
      parent.stdout.on("data", (chunk: Buffer) => {
        out += chunk.toString();
      });
      const pids = JSON.parse(await eventually("started", () => out.match(/^\[.*\]$/m)?.[0])) as number[];
      expect(pids).toHaveLength(2);
      parent.kill(signal);
      await eventually("no orphan", () => instanceProcesses().every((pid) => !pids.includes(pid)));
      const folders = () => readdirSync(TMPDIR).filter((name) => name !== "parent.ts");
      const left = folders();
      expect(left).toHaveLength(1);
      expect(statSync(join(TMPDIR, left[0] ?? "")).mode & 0o777).toBe(0o700);
      // Of a living owner: it stays.
      const living = make({ instances: 1, env });
      await living.start();
      await make({ instances: 1, env }).start();
      expect(folders()).toHaveLength(2);
      expect(folders()).not.toContain(left[0]);
      await eventually("no group", () => memoryGroups().every((name) => !name.startsWith(`llmpool-${parent.pid}-`)));
    } finally {
      parent.kill("SIGKILL");
    }
  },
);
