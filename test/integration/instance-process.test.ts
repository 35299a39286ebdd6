import { fork, spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";
import { Client, metricsOf } from "../conformance/client.ts";
import { InstanceProcess } from "../conformance/process.ts";
import { eventually } from "../support/eventually.ts";
import { tempDir } from "../support/temp-dir.ts";

const MAIN = fileURLToPath(new URL("../../runtime-image/main.ts", import.meta.url));

async function started(how: "spawn" | "listening" | "ready", change: Parameters<typeof InstanceProcess.ready>[0] = {}) {
  const instance = await InstanceProcess[how](change);
  onTestFinished(() => instance.stop());
  return instance;
}
const says = (content: string, more: object = {}) => ({ messages: [{ role: "user", content }], ...more });
const alive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

test("reports its way to ready: listening, Loading, WarmingUp, Ready, with device and speed", async () => {
  const instance = await started("ready");
  const types = instance.messages.map((m) => (m.type === "state" ? m.state : m.type));
  expect(types).toEqual(["listening", "Loading", "WarmingUp", "Ready", "ready"]);
  expect(instance.heard("ready")).toMatchObject({
    device: "stub",
    modelName: "stub",
    tokensPerSecond: expect.any(Number),
  });
});

test("reports when it begins and ends to compute", async () => {
  const instance = await started("ready");
  const client = new Client(instance);
  const stalled = client.post("/v1/chat/completions", says("!stub stall"), { timeoutMs: 500 });
  await Promise.all([stalled, client.chat(says("!stub ttftMs=50\nhello"))]);
  await eventually("it is idle again", () => instance.messages.at(-1)?.type === "running");
  const counts = instance.messages.flatMap((m) => (m.type === "running" ? [m.count] : []));
  expect(counts).toEqual([1, 0]);
});

test.each([
  ["no JSON", "{", "must hold the instance's configuration as JSON"],
  ["no configuration", undefined, "must hold the instance's configuration as JSON"],
  ["several problems at once", '{"port": -1, "backend": "magic", "colour": 1}', "port"],
])("says what is wrong with its configuration: %s", async (_, text, want) => {
  const child = fork(MAIN, {
    execPath: process.execPath,
    silent: true,
    env: text === undefined ? {} : { LLMPOOL_INSTANCE: text },
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  const [message] = (await once(child, "message")) as [{ type: string; reason: string; message: string }];
  expect(message).toMatchObject({ type: "failed", reason: "ConfigInvalid", message: expect.stringContaining(want) });
  if (text?.includes("colour"))
    for (const field of ["port", "backend", "colour", "contextTokens"]) expect(message.message).toContain(field);
  expect(await once(child, "exit")).toEqual([1, null]);
});

test("a port that is taken, and a token that is missing, are told as such", async () => {
  const other = createServer().listen(0, "127.0.0.1");
  onTestFinished(() => void other.close());
  await once(other, "listening");
  const { port } = other.address() as AddressInfo;
  const taken = await started("spawn", { port });
  expect(await taken.exit()).toMatchObject({ code: 1 });
  expect(taken.heard("failed")).toMatchObject({ reason: "PortInUse", message: expect.stringContaining(String(port)) });
  const open = await started("spawn", { tokenFile: "/nonexistent/token" });
  expect(await open.exit()).toMatchObject({ code: 1 });
  expect(open.heard("failed")).toMatchObject({
    reason: "ConfigInvalid",
    message: expect.stringContaining("/nonexistent/token"),
  });
});

test("a model that is not there ends the start with its reason", async () => {
  const dir = await tempDir();
  const model = { uri: `file://${dir}/none.gguf`, sha256: "", quantization: "" };
  const instance = await started("spawn", { backend: "llama-cpp", model });
  expect(await instance.exit()).toMatchObject({ code: 1 });
  expect(instance.heard("failed")).toMatchObject({ reason: "ModelNotFound" });
});

test("a warm-up that does not end in time fails the start", async () => {
  const stub = { ttftMs: 60_000, interTokenMs: 0, replyTokens: 1, errorRate: 0 };
  const instance = await started("spawn", { stub, requestTimeoutSeconds: 1 });
  expect(await instance.exit()).toMatchObject({ code: 1 });
  expect(instance.heard("failed")).toMatchObject({
    reason: "WarmupFailed",
    message: expect.stringContaining("requestTimeoutSeconds"),
  });
});

test.each(["SIGTERM", "SIGINT"] as const)("%s lets the running end, refuses new work, and exits 0", async (signal) => {
  const instance = await started("ready");
  const client = new Client(instance);
  const stream = client.stream("/v1/chat/completions", says("!stub interTokenMs=50 replyTokens=20\nhello"));
  await eventually("it runs", () => instance.heard("running"));
  instance.child.kill(signal);
  await eventually("it refuses", async () => (await client.post("/v1/chat/completions", says("hello"))).status === 503);
  expect((await client.fetch("/healthz")).status).toBe(200);
  expect((await stream).kinds.at(-1)).toBe("done");
  expect(await instance.exit()).toEqual({ code: 0, signal: null });
  expect(instance.messages.at(-1)).toMatchObject({ type: "running", count: 0 });
});

test("a second signal ends what still runs with an error", async () => {
  const instance = await started("ready");
  const stream = new Client(instance).stream("/v1/chat/completions", says("!stub stall=1"));
  await eventually("it runs", () => instance.heard("running"));
  instance.child.kill("SIGTERM");
  await eventually("it drains", () => instance.messages.some((m) => m.type === "state" && m.state === "Draining"));
  instance.child.kill("SIGTERM");
  expect(await stream).toMatchObject({ error: { code: "instance_unavailable" } });
  expect(await instance.exit()).toEqual({ code: 0, signal: null });
});

test("the supervisor's drain has its deadline, and a shorter one hurries it up", async () => {
  const instance = await started("ready");
  const stream = new Client(instance).stream("/v1/chat/completions", says("!stub stall=1"));
  await eventually("it runs", () => instance.heard("running"));
  instance.say({ type: "drain", deadlineMs: 60_000 });
  instance.say({ type: "drain", deadlineMs: 100 });
  expect(await stream).toMatchObject({
    error: { code: "instance_unavailable" },
    record: { done: true, completion_tokens: 1 },
  });
  expect(await instance.exit()).toEqual({ code: 0, signal: null });
});

test("a drain while it loads ends it", async () => {
  const stub = { ttftMs: 60_000, interTokenMs: 0, replyTokens: 1, errorRate: 0 };
  const instance = await started("listening", { stub });
  instance.say({ type: "drain", deadlineMs: 60_000 });
  expect(await instance.exit()).toEqual({ code: 0, signal: null });
  expect(instance.heard("failed")).toBeUndefined();
});

test.each([
  ["when it serves", `child.on("message", (m) => m.type === "ready" && writeSync(1, String(child.pid)));`],
  ["before it has read a line", `writeSync(1, String(child.pid)); process.kill(process.pid, "SIGKILL");`],
])("it ends by itself when its parent is killed %s", async (_, then) => {
  const dir = await tempDir();
  await writeFile(join(dir, "token"), "t");
  const config = {
    ...{ pool: "p", id: "0", variant: "default", backend: "stub", host: "127.0.0.1", port: 0, metricsPort: 0 },
    ...{
      tokenFile: join(dir, "token"),
      cacheDir: dir,
      stateDir: dir,
      contextTokens: 64,
      sessions: 1,
      warmupPrompt: "test",
    },
    ...{
      requestTimeoutSeconds: 60,
      sessionTTLSeconds: 60,
      stub: { ttftMs: 0, interTokenMs: 0, replyTokens: 1, errorRate: 0 },
    },
  };
  const parentFile = join(dir, "parent.mjs");
  await writeFile(
    parentFile,
    `import { spawn } from "node:child_process";
     import { writeSync } from "node:fs";
     const child = spawn(process.execPath, [process.argv[2]], { stdio: ["ignore", "ignore", "ignore", "ipc"], detached: true });
     ${then}`,
  );
  const parent = spawn(process.execPath, [parentFile, MAIN], {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, LLMPOOL_INSTANCE: JSON.stringify(config) },
  });
  onTestFinished(() => void parent.kill("SIGKILL"));
  const [line] = (await once(parent.stdout, "data")) as [Buffer];
  const pid = Number(line);
  onTestFinished(() => void (alive(pid) && process.kill(pid, "SIGKILL")));
  parent.kill("SIGKILL");
  await eventually("the instance is gone", () => !alive(pid));
});

test.each([
  ["crash=2", { code: null, signal: "SIGKILL" }],
  ["exit=7", { code: 7, signal: null }],
])("the stub's fault %s ends the process, and its client sees a cut connection", async (fault, want) => {
  const instance = await started("ready");
  const call = new Client(instance).post("/v1/chat/completions", says(`!stub ${fault}`, { stream: true }));
  await expect(call.then((response) => response.text())).rejects.toThrow();
  expect(await instance.exit()).toEqual(want);
});

test("a hung process answers nobody; one that leaks goes on answering", async () => {
  const leaking = await started("ready");
  const client = new Client(leaking);
  const resident = async () => (await metricsOf(leaking.metricsUrl)).get("process_resident_memory_bytes") ?? 0;
  const before = await resident();
  expect((await client.chat(says("!stub leak=64\nhello"))).choices[0].finish_reason).toBe("stop");
  expect(await resident()).toBeGreaterThan(before + 60 * 2 ** 20);
  expect((await client.fetch("/healthz")).status).toBe(200);
  const hung = new Client(await started("ready"));
  hung.post("/v1/chat/completions", says("!stub hang")).catch(() => {});
  const probe = () =>
    hung.fetch("/healthz", {}, { signal: AbortSignal.timeout(200) }).then(
      () => false,
      () => true,
    );
  await eventually("it answers nobody", probe);
});
