import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";
import type { EpisodeObject, List, SessionObject } from "../../src/api/http.ts";
import type { RequestRecord } from "../../src/api/instance.ts";
import { InstanceProcess, TOKEN } from "../conformance/process.ts";
import { eventually } from "../support/eventually.ts";
import { tempDir } from "../support/temp-dir.ts";

const MAIN = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));
const POOL = `
apiVersion: llmpool.dev/v1alpha1
kind: LLMPool
metadata: { name: crash }
spec:
  backend: stub
  instances: 2
  contextTokens: 512
  roles: [{ name: planner, instance: 0 }, { name: coder, instance: 1 }]
  budgets: { episodeTokens: 5000 }
  episodes: { heartbeatSeconds: 1 }
`;

/** The standalone router as a process, which can be killed and started again over the same state. */
class RouterProcess {
  readonly #dir: string;
  #child: ChildProcess | undefined;
  output = "";

  constructor(dir: string) {
    this.#dir = dir;
  }

  async start(): Promise<void> {
    const child = this.#spawn();
    await eventually("the router is ready", async () => {
      if (child.exitCode !== null) return true;
      return this.url !== "" && (await fetch(`${this.url}/readyz`)).ok;
    });
    if (child.exitCode !== null) throw new Error(this.output);
  }

  /** A start that is expected to end by itself. */
  async startAndExit(): Promise<{ code: number | null; output: string }> {
    const [code] = (await once(this.#spawn(), "close")) as [number | null];
    return { code, output: this.output };
  }

  #spawn(): ChildProcess {
    this.output = "";
    const flags = [
      ...["-f", "pool.yaml", "--endpoints", "endpoints.json", "--token-file", "token"],
      ...["--port", "0", "--state", "state"],
    ];
    const child = spawn(process.execPath, [MAIN, "router", ...flags], {
      cwd: this.#dir,
      stdio: ["ignore", "pipe", "pipe"],
    });
    const keep = (chunk: Buffer) => {
      this.output += chunk.toString();
    };
    child.stdout.on("data", keep);
    child.stderr.on("data", keep);
    this.#child = child;
    return child;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  get url(): string {
    return /router of pool \S+ at (\S+)/.exec(this.output)?.[1] ?? "";
  }

  async end(signal: NodeJS.Signals): Promise<number | null> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return null;
    const exit = once(child, "exit");
    child.kill(signal);
    const [code] = (await exit) as [number | null];
    return code;
  }
}

test("a router that is killed in mid-episode and started again has lost no episode, token, reservation or session", async () => {
  const dir = await tempDir();
  const instances = [await InstanceProcess.ready({ id: "0" }), await InstanceProcess.ready({ id: "1" })];
  for (const instance of instances) onTestFinished(() => instance.stop());
  await writeFile(join(dir, "pool.yaml"), POOL);
  await writeFile(join(dir, "token"), TOKEN);
  await writeFile(join(dir, "endpoints.json"), JSON.stringify(instances.map(({ url }, i) => ({ id: String(i), url }))));
  const router = new RouterProcess(dir);
  onTestFinished(() => router.end("SIGKILL").then(() => {}));
  await router.start();

  const chat = (role: string, session: string, content: string, rest: object = {}) =>
    fetch(`${router.url}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-session-id": session, "x-episode-id": "ep1" },
      body: JSON.stringify({ model: role, messages: [{ role: "user", content }], max_tokens: 40, ...rest }),
    });
  const episode = async () => (await (await fetch(`${router.url}/v1/episodes/ep1`)).json()) as EpisodeObject;
  const sessions = async () => {
    const { data } = (await (await fetch(`${router.url}/v1/sessions`)).json()) as List<SessionObject>;
    return data.map((s) => [s.id, s.role, s.instance_id]).sort();
  };

  const done = (await (await chat("planner", "s1", "hello")).json()) as { usage: { total_tokens: number } };
  // These run when the router dies: one stalls on each instance until its connection is gone.
  const cut = [
    chat("planner", "s2", "!stub stall=3 replyTokens=30\nhello", { stream: true }),
    chat("coder", "s3", "!stub stall=7 replyTokens=30\nhello", { stream: true }),
  ];
  const streams = await Promise.all(cut);
  const before = await episode();
  expect(before.tokens_used).toBe(done.usage.total_tokens);
  expect(before.tokens_reserved).toBeGreaterThan(0);
  const boundBefore = await sessions();
  const ids = streams.map((r) => r.headers.get("x-request-id") ?? "");

  await router.end("SIGKILL");
  await Promise.allSettled(streams.map((r) => r.text()));
  await router.start();

  const after = await eventually("the instances have told what was open", async () => {
    const now = await episode();
    return now.tokens_reserved === 0 && now;
  });
  const counted = await Promise.all(ids.map((id, i) => recordOf(instances[i], id)));
  const total = counted.reduce((sum, r) => sum + r.prompt_tokens + r.completion_tokens, done.usage.total_tokens);
  expect(counted.map((r) => r.completion_tokens)).toEqual([3, 7]);
  expect(after.tokens_used).toBe(total);
  expect(after.state).toBe("active");
  expect(after.started_at).toBe(before.started_at);
  expect(after.time_remaining_s).toBeLessThan(before.time_remaining_s);
  expect(await sessions()).toEqual(boundBefore);
  const beat = await eventually("a heartbeat", () => /^\{"event":"episode_heartbeat".*\}$/m.exec(router.output)?.[0]);
  expect(JSON.parse(beat)).toMatchObject({ episode_id: "ep1", instances: ["0", "1"] });
  const next = (await (await chat("planner", "s1", "hello")).json()) as {
    usage: { prompt_tokens_details: { cached_tokens: number } };
  };
  expect(next.usage.prompt_tokens_details.cached_tokens).toBeGreaterThan(0);

  expect(await router.end("SIGTERM")).toBe(0);
});

test("a second router on the same state exits and names the first", async () => {
  const dir = await tempDir();
  await writeFile(
    join(dir, "pool.yaml"),
    POOL.replace("instances: 2", "instances: 1").replace(", { name: coder, instance: 1 }", ""),
  );
  await writeFile(join(dir, "token"), TOKEN);
  const instance = await InstanceProcess.ready({ id: "0" });
  onTestFinished(() => instance.stop());
  await writeFile(join(dir, "endpoints.json"), JSON.stringify([{ id: "0", url: instance.url }]));
  const [first, second] = [new RouterProcess(dir), new RouterProcess(dir)];
  onTestFinished(() => first.end("SIGKILL").then(() => {}));
  await first.start();
  const { code, output } = await second.startAndExit();
  expect(code).toBe(1);
  expect(output).toMatch(new RegExp(`in use by process ${first.pid}\\b`));
});

async function recordOf(instance: InstanceProcess | undefined, id: string): Promise<RequestRecord> {
  const answer = await fetch(`${instance?.url}/internal/requests/${id}`, {
    headers: { authorization: `Bearer ${TOKEN}` },
  });
  return (await answer.json()) as RequestRecord;
}
