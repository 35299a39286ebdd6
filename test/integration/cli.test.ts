import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { hashAgent, LLMClient, LLMPoolClientError } from "../../src/client/index.ts";
import { readRunFile } from "../../src/dev/run-file.ts";
import { collect } from "../support/collect.ts";
import { eventually } from "../support/eventually.ts";

const MAIN = join(import.meta.dirname, "../../src/cli/main.ts");
const POOL = `
apiVersion: llmpool.dev/v1alpha1
kind: LLMPool
metadata: { name: demo }
spec:
  backend: stub
  instances: 2
  roles: [{ name: planner }, { name: coder }]
  budgets: { episodeTokens: 2000 }
  stub: { interTokenMs: 1 }
`;

let cwd: string;
let dev: ChildProcess;
let client: LLMClient;

function start(args: string[], env: Record<string, string> = {}): ChildProcess {
  return spawn(process.execPath, [MAIN, ...args], {
    cwd,
    env: { ...process.env, ...env },
    stdio: ["pipe", "pipe", "pipe"],
  });
}

/** Runs a command of the same folder to its end. */
async function llmpool(...args: string[]): Promise<{ out: string; err: string; code: number | null }> {
  const child = start(args);
  onTestFinished(() => void child.kill("SIGKILL"));
  child.stdin?.end();
  const said = { out: "", err: "" };
  child.stdout?.on("data", (chunk) => (said.out += chunk));
  child.stderr?.on("data", (chunk) => (said.err += chunk));
  const [code] = (await once(child, "close")) as [number | null];
  return { ...said, code };
}

beforeAll(async () => {
  cwd = await mkdtemp(join(tmpdir(), "llmpool-cli-"));
  await writeFile(join(cwd, "pool.yaml"), POOL);
  dev = start(["dev", "-f", "pool.yaml", "--port", "0"]);
  let said = "";
  dev.stdout?.on("data", (chunk) => (said += chunk));
  dev.stderr?.on("data", (chunk) => (said += chunk));
  const url = await eventually("the pool to be ready", () => {
    if (dev.exitCode !== null) throw new Error(said);
    return said.includes("ready; in another terminal") && readRunFile(join(cwd, ".llmpool"))?.url;
  });
  client = new LLMClient({ baseUrl: url });
});

afterAll(async () => {
  if (dev.exitCode === null && dev.signalCode === null) {
    dev.kill("SIGTERM");
    await once(dev, "exit");
  }
  await rm(cwd, { recursive: true, force: true });
});

describe("commands find the running pool by its folder", () => {
  test("status names pool, instances and roles", async () => {
    const { out, code } = await llmpool("status");
    expect(code).toBe(0);
    expect(out).toMatch(/^pool demo at http:\/\/127\.0\.0\.1:\d+: 2 of 2 instances ready\n/);
    expect(out).toMatch(/^0 +Ready +planner /m);
    expect(out).toMatch(/^1 +Ready +coder /m);
  });

  test("chat answers; the same question in a session comes from the cache", async () => {
    const first = await llmpool("chat", "-v", "--role", "coder", "--session", "s1", "hello");
    expect(first).toMatchObject({
      code: 0,
      err: expect.stringMatching(/on instance 1: \d+ prompt tokens, 0 of them cached/),
    });
    expect(first.out.trim()).not.toBe("");
    const second = await llmpool("chat", "-v", "--role", "coder", "--session", "s1", "hello");
    expect(second.out).toBe(first.out);
    expect(second.err).not.toMatch(/ 0 of them cached/);
    expect((await llmpool("sessions")).out).toMatch(/^s1 +coder +1 /m);
    expect((await llmpool("sessions", "delete", "s1")).out).toBe("session/s1 deleted\n");
    expect((await llmpool("sessions")).out).not.toContain("s1");
  });

  test("episodes are followed to their end", async () => {
    await client.generate("planner", "hello", { episodeId: "ep1", maxNewTokens: 8 });
    const following = llmpool("episodes", "events", "ep1");
    expect((await llmpool("episodes", "finish", "ep1")).out).toBe("episode/ep1 finished\n");
    expect((await following).out).toMatch(/ started .*\n.* llm_response .*\n.* ended .*reason=finished/);
    expect((await llmpool("episodes", "-o", "name")).out).toContain("ep1\n");
    expect(await llmpool("episodes", "cancel", "ep1")).toMatchObject({
      code: 1,
      err: /^llmpool: episode ep1 has ended/,
    });
  });

  test("a reader who has enough does not make it fail", async () => {
    const child = start(["status", "-o", "json"]);
    child.stdout?.destroy();
    let err = "";
    child.stderr?.on("data", (chunk) => (err += chunk));
    await once(child, "close");
    expect(err).toBe("");
  });

  test("Ctrl-C ends a command that follows", async () => {
    const child = start(["status", "--watch"]);
    onTestFinished(() => void child.kill("SIGKILL"));
    await eventually("the first picture", () => once(child.stdout ?? child, "data"));
    child.kill("SIGINT");
    expect(await once(child, "exit")).toEqual([0, null]);
  });
});

describe("the client against the real router", () => {
  test("an agent without a role goes where its hash says", async () => {
    const { instanceId, role } = await client.generate("agent-1", "hello");
    expect({ instanceId, role }).toEqual({ instanceId: String(hashAgent("agent-1", 2)), role: undefined });
  });

  test("streams the same text as it generates, with the same usage", async () => {
    const options = { maxNewTokens: 8, temperature: 0 };
    const whole = await client.generate("planner", "hello", options);
    const events = await collect(client.stream("planner", "hello", options));
    const done = events.at(-1);
    if (done?.type !== "done") throw new Error("no end");
    expect(done.generation).toMatchObject({
      text: whole.text,
      finishReason: whole.finishReason,
      usage: whole.usage,
      role: "planner",
      instanceId: "0",
    });
    expect(events.flatMap((event) => (event.type === "text" ? [event.text] : [])).join("")).toBe(whole.text);
  });

  test("an episode: progress, events, budget, end, and denial without asking", async () => {
    const seen = collect(client.episodes.events("ep2"));
    seen.catch(() => {});
    const episode = await client.episodes.start({
      id: "ep2",
      timeout_s: 60,
      budget_tokens: 100,
      metadata: { issue: "7" },
    });
    expect(episode).toMatchObject({ id: "ep2", state: "active", budget_tokens: 100, metadata: { issue: "7" } });
    await client.generate("planner", "hello", { episodeId: "ep2", maxNewTokens: 4, sessionId: "ep2:planner" });
    await client.progress("ep2", "file_write", "a.ts");
    expect(await client.episodes.get("ep2")).toMatchObject({
      sessions: ["ep2:planner"],
      last_progress: { event: "file_write" },
    });
    const tooMuch = client.generate("planner", "hello", { episodeId: "ep2", maxNewTokens: 1000 });
    expect(await tooMuch.catch((e) => e)).toMatchObject({ code: "budget_exhausted", local: false, retryable: false });
    await client.episodes.finish("ep2");
    const denied: unknown = await client.generate("planner", "hello", { episodeId: "ep2" }).catch((e) => e);
    expect(denied).toBeInstanceOf(LLMPoolClientError);
    expect(denied).toMatchObject({ code: "episode_ended", local: true });
    const events = await collect(client.episodes.events("ep2"));
    expect(events.at(0)).toMatchObject({ event: "started" });
    expect(events.at(-1)).toMatchObject({ event: "ended", reason: "finished" });
    // Asked before it began, which is an id that does not exist.
    await expect(seen).rejects.toMatchObject({ code: "not_found" });
  });

  test("an abort frees the instance", async () => {
    const abort = new AbortController();
    const reason = new Error("enough");
    const read = async () => {
      for await (const event of client.stream("planner", "hello", { signal: abort.signal })) {
        if (event.type === "text") abort.abort(reason);
      }
    };
    expect(await read().catch((e) => e)).toBe(reason);
    await eventually("the instance to be idle", async () => {
      return (await client.instances()).every((instance) => instance.running === 0);
    });
  });

  test("typed errors of the real thing", async () => {
    expect(await client.generate("planner", "x", { instanceId: "9" }).catch((e) => e)).toMatchObject({
      code: "invalid_request",
      status: 400,
    });
    expect(await client.deleteSession("none").catch((e) => e)).toMatchObject({ code: "not_found", status: 404 });
    expect(await client.generate("planner", "x ".repeat(50_000)).catch((e) => e)).toMatchObject({
      code: "context_length_exceeded",
    });
  });
});

test("SIGTERM ends the pool, and commands say that none runs", async () => {
  dev.kill("SIGTERM");
  expect(await once(dev, "exit")).toEqual([0, null]);
  expect(await llmpool("status")).toMatchObject({ code: 1, err: expect.stringContaining("no pool runs here") });
});
