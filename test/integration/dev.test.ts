import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import type { InstanceObject, List } from "../../src/api/http.ts";
import { dev } from "../../src/dev/dev.ts";
import { readRunFile } from "../../src/dev/run-file.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { eventually } from "../support/eventually.ts";
import { instanceProcesses, memoryGroups } from "../support/processes.ts";
import { tempDir } from "../support/temp-dir.ts";

const running: { stop(): Promise<void> }[] = [];
afterEach(async () => {
  await Promise.all(running.splice(0).map((one) => one.stop().catch(() => {})));
});

const manifest = (spec: string, name = "apex") =>
  `apiVersion: llmpool.dev/v1alpha1\nkind: LLMPool\nmetadata: { name: ${name} }\nspec: ${spec}\n`;
const TWO = "{ backend: stub, instances: 2, roles: [{ name: planner, instance: 0 }, { name: coder, instance: 1 }] }";

/** `llmpool dev` on a file of its own, as on a pipe. */
async function start(spec: string, given: { folder?: string; port?: number; env?: Record<string, string> } = {}) {
  const folder = given.folder ?? (await tempDir());
  const file = join(folder, "pool.yaml");
  const stateDir = join(folder, "state");
  writeFileSync(file, manifest(spec));
  const [end, hurry] = [new AbortController(), new AbortController()];
  let out = "";
  const io = {
    stdout: (text: string) => {
      out += text;
    },
    stderr: () => {},
    env: { PATH: process.env.PATH, ...given.env },
    cwd: folder,
    signal: end.signal,
    hurry: hurry.signal,
    setExitCode: () => {},
  };
  const options = { file, port: given.port ?? 0, stateDir, secretDirs: new Map(), volumes: new Map() };
  const done = dev(options, io, systemClock);
  done.catch(() => {});
  const url = () => readRunFile(stateDir)?.url || undefined;
  const one = {
    folder,
    stateDir,
    done,
    output: () => out,
    lines: () => out.trim().split("\n"),
    url: () => url() ?? "",
    edit(next: string, name?: string) {
      // As editors do it: a new file in place of the old one.
      writeFileSync(join(folder, "draft"), manifest(next, name));
      renameSync(join(folder, "draft"), file);
    },
    async instances(): Promise<InstanceObject[]> {
      const answer = await fetch(`${url()}/v1/instances`);
      return ((await answer.json()) as List<InstanceObject>).data;
    },
    async pids(): Promise<Record<string, number | undefined>> {
      return Object.fromEntries((await one.instances()).map(({ id, pid }) => [id, pid]));
    },
    async ready(count: number): Promise<void> {
      const ready = eventually(`${count} ready`, async () => {
        if (!url()) return false;
        const all = await one.instances();
        return all.length === count && all.every(({ state }) => state === "Ready");
      });
      // A start that fails says why, at once.
      await Promise.race([ready, done.then(() => ready)]);
    },
    says: (text: string | RegExp) =>
      eventually(`output has ${text}`, () => (typeof text === "string" ? out.includes(text) : text.test(out))),
    chat: (model: string, content = "hello", rest: object = {}) =>
      fetch(`${url()}/v1/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ model, messages: [{ role: "user", content }], ...rest }),
      }),
    /** Ctrl-C, and a second one that does not wait. */
    end: () => end.abort(),
    hurry: () => hurry.abort(),
    async stop() {
      end.abort();
      hurry.abort();
      await done;
    },
  };
  running.push(one);
  return one;
}

test("brings a pool up, says where it is and what to type, answers by role, and leaves nothing", async () => {
  const pool = await start(TWO);
  await pool.ready(2);
  expect(readRunFile(pool.stateDir)).toMatchObject({ pid: process.pid, pool: "apex" });
  expect(pool.url()).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
  await pool.says("chat --role planner");
  expect(pool.output()).toContain(`curl ${pool.url()}/v1/chat/completions`);
  expect(pool.lines()).toEqual(expect.arrayContaining([expect.stringMatching(/^instance 0: Ready \(pid \d+\)$/)]));
  const answer = await pool.chat("coder");
  expect([answer.status, answer.headers.get("x-llmpool-instance")]).toEqual([200, "1"]);
  expect((await fetch(`${pool.url()}/readyz`)).status).toBe(200);

  const pids = Object.values(await pool.pids());
  pool.end();
  await pool.done;
  expect(instanceProcesses().filter((pid) => pids.includes(pid))).toEqual([]);
  expect(readdirSync(pool.stateDir)).toEqual(["apex"]);
  expect(memoryGroups().filter((name) => name.startsWith(`llmpool-${process.pid}-`))).toEqual([]);
  expect(pool.lines().at(-1)).toBe("all instances have ended");
});

test("a changed role moves requests and touches no process", async () => {
  const pool = await start(TWO);
  await pool.ready(2);
  const before = await pool.pids();
  pool.edit(TWO.replace("coder, instance: 1", "coder, instance: 0"));
  await pool.says("edit: role coder: instance 1 -> instance 0");
  await eventually("moved", async () => (await pool.chat("coder")).headers.get("x-llmpool-instance") === "0");
  expect(await pool.pids()).toEqual(before);
});

test("a changed setting replaces its instances one by one, and the pool answers all the while", async () => {
  const pool = await start(TWO);
  await pool.ready(2);
  const before = await pool.pids();
  const from = pool.lines().length;
  pool.edit(TWO.replace("instances: 2", "instances: 2, stub: { replyTokens: 3 }"));
  await pool.says("edit: variant default: stub.replyTokens 16 -> 3 (its instances are replaced one by one)");
  await eventually("replaced", async () => {
    const now = await pool.pids();
    const all = await pool.instances();
    return all.every(({ id, state }) => state === "Ready" && now[id] !== undefined && now[id] !== before[id]);
  });
  const steps = pool
    .lines()
    .slice(from)
    .flatMap((line) => /^instance (\d): (Draining|Ready)/.exec(line)?.slice(1, 3).join(" ") ?? []);
  expect(steps).toEqual(["0 Draining", "0 Ready", "1 Draining", "1 Ready"]);
  const body = (await (await pool.chat("planner")).json()) as { usage: { completion_tokens: number } };
  expect(body.usage.completion_tokens).toBe(3);
  expect((await pool.instances()).map(({ restarts }) => restarts)).toEqual([0, 0]);
});

test("one instance more is one process more, one less is one less", async () => {
  const pool = await start(TWO);
  await pool.ready(2);
  const before = await pool.pids();
  pool.edit(TWO.replace("instances: 2", "instances: 3"));
  await pool.says("edit: variant default: 2 -> 3 instances");
  await pool.ready(3);
  expect(await pool.pids()).toMatchObject(before);
  pool.edit(TWO);
  await pool.says("instance 2: gone");
  expect(await pool.pids()).toEqual(before);
});

test("a bad edit is told with its cure and changes nothing; a good one after it counts", async () => {
  const pool = await start(TWO);
  await pool.ready(2);
  const before = await pool.pids();
  pool.edit(TWO.replace("instance: 1", "instance: 7"));
  await pool.says(/edit refused.*spec\.roles\[\d\]\.instance: .* is not below/s);
  pool.edit(TWO, "other");
  await pool.says("metadata.name");
  pool.edit(TWO.replace("roles", "warmup: x, roles"));
  await pool.says(/warmup/);
  pool.edit("{ backend: llama-cpp, model: { uri: 'file:///none.gguf' } }");
  await pool.says(/edit refused[\s\S]*none\.gguf/);
  expect(pool.output()).not.toContain("edit: variant");
  expect(await pool.pids()).toEqual(before);
  expect((await pool.chat("coder")).status).toBe(200);
  pool.edit(TWO.replace("coder", "tester"));
  await pool.says("edit: role tester: added");
});

test("a second one on the same state directory is refused and names the first", async () => {
  const first = await start(TWO);
  await first.ready(2);
  const second = await start(TWO, { folder: first.folder });
  await expect(second.done).rejects.toThrow(`process id ${process.pid}`);
  expect((await first.chat("planner")).status).toBe(200);
  expect(readRunFile(first.stateDir)?.url).toBe(first.url());
});

test("a port that is taken is told before a model is fetched, and nothing is left", async () => {
  const taken = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => taken.once("listening", resolve));
  const address = taken.address();
  const port = typeof address === "object" ? (address?.port ?? 0) : 0;
  try {
    const model = "{ backend: llama-cpp, model: { uri: 'file:///none.gguf' } }";
    const pool = await start(model, { port, env: { npm_lifecycle_event: "start" } });
    const told = `port ${port} is taken; choose another with --port: npm start -- --port 8081`;
    await expect(pool.done).rejects.toThrow(told);
    expect(existsSync(pool.stateDir)).toBe(false);
  } finally {
    await new Promise((resolve) => taken.close(resolve));
  }
});

test("Ctrl-C lets an open stream end, and says how long it may take", async () => {
  const pool = await start(TWO.replace("instances: 2", "instances: 2, drainSeconds: 60"));
  await pool.ready(2);
  const answer = await pool.chat("planner", "!stub replyTokens=30 interTokenMs=20", { stream: true });
  pool.end();
  const text = await answer.text();
  expect(text).toContain("data: [DONE]");
  await pool.done;
  expect(pool.output()).toContain("open requests have 60 s to finish");
});

test("a second Ctrl-C does not wait for the stream", async () => {
  const pool = await start(TWO.replace("instances: 2", "instances: 2, drainSeconds: 600"));
  await pool.ready(2);
  const pids = Object.values(await pool.pids());
  const answer = await pool.chat("planner", "!stub stall=3 interTokenMs=1", { stream: true });
  pool.end();
  await pool.says("draining");
  pool.hurry();
  await pool.done;
  await answer.text().catch(() => {});
  expect(instanceProcesses().filter((pid) => pids.includes(pid))).toEqual([]);
});

test("an instance that dies is told with its reason and comes back", async () => {
  const pool = await start(TWO);
  await pool.ready(2);
  const { 0: victim, 1: neighbour } = await pool.pids();
  process.kill(victim ?? 0, "SIGKILL");
  await pool.says(/instance 0: Failed \(.*SIGKILL/);
  await pool.ready(2);
  expect((await pool.pids())[1]).toBe(neighbour);
  expect((await pool.instances()).map(({ restarts }) => restarts)).toEqual([1, 0]);
});

test("the pool's token is for its owner alone", async () => {
  const pool = await start(TWO);
  await pool.ready(2);
  const { mode } = statSync(join(pool.stateDir, "token"));
  expect(mode & 0o777).toBe(0o600);
  expect(readFileSync(join(pool.stateDir, "token"), "utf8")).toMatch(/^[0-9a-f]{64}$/);
});

/** The command itself, as a process. */
async function startProcess(folder: string) {
  writeFileSync(join(folder, "pool.yaml"), manifest(TWO));
  const main = join(import.meta.dirname, "../../src/cli/main.ts");
  const args = [main, "dev", "-f", "pool.yaml", "--port", "0"];
  // One that is killed leaves its temporary files behind: they go with the folder.
  const env = { ...process.env, TMPDIR: folder };
  const child = spawn(process.execPath, args, { cwd: folder, env, stdio: ["ignore", "pipe", "inherit"] });
  let out = "";
  child.stdout.on("data", (chunk: Buffer) => {
    out += chunk.toString();
  });
  const exit = new Promise<number | null>((resolve) => child.once("close", (code) => resolve(code)));
  running.push({
    async stop() {
      child.kill("SIGKILL");
      await exit;
    },
  });
  await eventually("ready", () => out.includes("ready; in another terminal"));
  const pids = [...out.matchAll(/Ready \(pid (\d+)\)/g)].map(([, pid]) => Number(pid));
  expect(pids).toHaveLength(2);
  return { child, exit, pids, output: () => out };
}

test("SIGTERM ends the command with exit code 0 and leaves nothing", async () => {
  const folder = await tempDir();
  const { child, exit, pids, output } = await startProcess(folder);
  child.kill("SIGTERM");
  expect(await exit).toBe(0);
  expect(output()).toContain("all instances have ended");
  expect(instanceProcesses().filter((pid) => pids.includes(pid))).toEqual([]);
  expect(readdirSync(join(folder, ".llmpool"))).toEqual(["apex"]);
});

test("who reads its output may go: the pool serves on, and still drains when it is told to end", async () => {
  const folder = await tempDir();
  const { child, exit, pids } = await startProcess(folder);
  child.stdout.destroy();
  const { url } = readRunFile(join(folder, ".llmpool")) ?? {};
  // Its end is a line that nobody reads.
  const episode = { method: "POST", headers: { "content-type": "application/json" }, body: '{"id":"ep1"}' };
  expect((await fetch(`${url}/v1/episodes`, episode)).status).toBe(201);
  expect((await fetch(`${url}/v1/episodes/ep1/finish`, { method: "POST" })).status).toBe(200);
  expect((await fetch(`${url}/readyz`)).status).toBe(200);
  child.kill("SIGTERM");
  expect(await exit).toBe(0);
  expect(instanceProcesses().filter((pid) => pids.includes(pid))).toEqual([]);
  expect(readdirSync(join(folder, ".llmpool"))).toEqual(["apex"]);
});

test("after a kill -9 of the command no instance lives on, and the next start takes the state directory over", async () => {
  const folder = await tempDir();
  const { child, exit, pids } = await startProcess(folder);
  child.kill("SIGKILL");
  await exit;
  await eventually("no orphan", () => instanceProcesses().every((pid) => !pids.includes(pid)));
  const again = await startProcess(folder);
  expect(readRunFile(join(folder, ".llmpool"))?.pid).toBe(again.child.pid);
});
