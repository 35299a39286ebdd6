import { createHash } from "node:crypto";
import { mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, onTestFinished, test } from "vitest";
import type { EpisodeObject, List, SessionObject } from "../../src/api/http.ts";
import { dev } from "../../src/dev/dev.ts";
import { readRunFile } from "../../src/dev/run-file.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { cli, type Said } from "../support/cli.ts";
import { eventually } from "../support/eventually.ts";
import { chunk, startStream } from "../support/fake-instance.ts";
import { type Front, Fronts } from "../support/fronts.ts";
import { instanceServer } from "../support/instance-server.ts";
import { hasRedis, REDIS_CURE } from "../support/redis.ts";
import { tempDir } from "../support/temp-dir.ts";

/** An entry of the keys Secret; the key is the caller's name. */
const entry = (name: string, rest: object = {}) =>
  JSON.stringify({ sha256: createHash("sha256").update(name).digest("hex"), ...rest });
const bearer = (name: string) => ({ authorization: `Bearer ${name}` });

const POOL = (spec: string) => `apiVersion: llmpool.dev/v1alpha1
kind: LLMPool
metadata: { name: apex }
spec: { backend: stub, instances: 1, roles: [{ name: planner }], router: { auth: { mode: ApiKey, secretName: keys } }, ${spec} }
`;
const secret = (...names: string[]) => `---
apiVersion: v1
kind: Secret
metadata: { name: keys }
stringData: { ${names.map((name) => `${name}: '${entry(name)}'`).join(", ")} }
`;

function chat(url: string, name: string, body: object = {}): Promise<Response> {
  return fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...bearer(name) },
    body: JSON.stringify({ model: "planner", messages: [{ role: "user", content: "hi" }], ...body }),
  });
}
const statusOf = async (answer: Promise<Response>) => {
  const { status, body } = await answer;
  await body?.cancel();
  return status;
};
const statuses = async (url: string, ...names: string[]) =>
  await Promise.all(names.map((name) => statusOf(chat(url, name))));

/** As editors and kubelets do it: in one step. */
function replace(file: string, text: string): void {
  writeFileSync(`${file}.new`, text);
  renameSync(`${file}.new`, file);
}

describe("llmpool dev", () => {
  async function start(text: string, secretDirs: ReadonlyMap<string, string> = new Map()) {
    const folder = await tempDir();
    const file = join(folder, "pool.yaml");
    const stateDir = join(folder, "state");
    writeFileSync(file, text);
    const end = new AbortController();
    let out = "";
    const io = {
      stdout: (text: string) => {
        out += text;
      },
      stderr: () => {},
      ...{ env: { PATH: process.env.PATH }, cwd: folder, signal: end.signal, hurry: end.signal, setExitCode: () => {} },
    };
    const done = dev({ file, port: 0, stateDir, secretDirs, volumes: new Map() }, io, systemClock);
    onTestFinished(async () => {
      end.abort();
      await done;
    });
    const url = () => readRunFile(stateDir)?.url ?? "";
    await eventually("it is ready", async () => url() !== "" && (await fetch(`${url()}/readyz`)).ok);
    return { file, url: url(), output: () => out };
  }

  test("a Secret edited in the pool's own file: a key that is gone opens nothing, what it runs ends as it should", async () => {
    const slow = "stub: { interTokenMs: 150, replyTokens: 20 }";
    const { file, url } = await start(POOL(slow) + secret("alice", "bob"));
    const running = await chat(url, "bob", { stream: true });
    expect(running.status).toBe(200);
    replace(file, POOL(slow) + secret("alice", "carol"));
    await eventually("carol is known", async () => (await statusOf(chat(url, "carol", { max_tokens: 1 }))) === 200);
    expect(await statuses(url, "bob")).toEqual([401]);
    expect(await running.text()).toMatch(/"finish_reason":"(stop|length)"[\s\S]*data: \[DONE\]\n\n$/);
  });

  test("a folder given by --secret, also while the pool's file is broken; what it holds is never shown", async () => {
    const keys = await tempDir();
    for (const name of ["alice", "bob"]) writeFileSync(join(keys, name), entry(name));
    const { file, url, output } = await start(POOL(""), new Map([["keys", keys]]));
    expect(await statuses(url, "alice", "bob", "mallory")).toEqual([200, 200, 401]);
    replace(file, "kind: Nonsense");
    await eventually("the edit is refused", () => output().includes("edit refused"));
    rmSync(join(keys, "bob"));
    await eventually("bob is out", async () => (await statusOf(chat(url, "bob"))) === 401);
    writeFileSync(join(keys, "bad"), "hunter2");
    await eventually("the bad entry is told", () => output().includes('entry "bad"'));
    expect(await statuses(url, "alice")).toEqual([200]);
    expect(output()).toContain("edit: Secret keys: changed");
    expect(output()).not.toMatch(/hunter2|[0-9a-f]{64}/);
  });
});

test("llmpool router --file follows the Secret of its file and the folders of --secret", async () => {
  const dir = await tempDir();
  const instance = await instanceServer();
  const write = (name: string, text: string) => replace(join(dir, name), text);
  write("token", "in-process");
  write("endpoints.json", JSON.stringify([{ id: "0", url: instance.url }]));
  write("pool.yaml", POOL("") + secret("alice", "bob"));
  mkdirSync(join(dir, "other"));
  const end = new AbortController();
  const said: Said = { out: "", err: "", code: 0 };
  const flags = ["-f", "pool.yaml", "--endpoints", "endpoints.json", "--token-file", "token", "--port", "0"];
  const done = cli(["router", ...flags, "--state", "state", "--secret", "other=other"], {
    ...{ cwd: dir, said, signal: end.signal },
  });
  onTestFinished(async () => {
    end.abort();
    await done;
  });
  const url = await eventually("it listens", () => /router of pool apex at (\S+)/.exec(said.err)?.[1]);
  await eventually("it is ready", async () => (await fetch(`${url}/readyz`)).ok);
  expect(await statuses(url, "alice", "bob")).toEqual([200, 200]);
  write("pool.yaml", POOL("") + secret("alice"));
  await eventually("bob is out", async () => (await statusOf(chat(url, "bob"))) === 401);
  write("pool.yaml", POOL("").replace("secretName: keys", "secretName: other"));
  await eventually("alice is out", async () => (await statusOf(chat(url, "alice"))) === 401);
  writeFileSync(join(dir, "other", "carol"), entry("carol"));
  await eventually("carol is in", async () => (await statusOf(chat(url, "carol"))) === 200);
  rmSync(join(dir, "other", "carol"));
  await eventually("carol is out", async () => (await statusOf(chat(url, "carol"))) === 401);
});

describe.skipIf(!hasRedis)(hasRedis ? "keys of several routers" : `keys over Redis (${REDIS_CURE})`, () => {
  let pool: Fronts;
  afterEach(() => pool[Symbol.asyncDispose]());
  const as = (name: string, rest: Record<string, string> = {}) => ({ ...bearer(name), ...rest });

  async function start(keys: Record<string, object>): Promise<[Front, Front]> {
    const secrets = { keys: Object.fromEntries(Object.entries(keys).map(([n, e]) => [n, Buffer.from(entry(n, e))])) };
    const auth = { mode: "ApiKey", secretName: "keys" };
    pool = await Fronts.start({ secrets, spec: { router: { auth } } });
    return pool.fronts as [Front, Front];
  }

  const get = async (front: Front, path: string, name: string) =>
    await fetch(front.router.url + path, { headers: bearer(name) });

  /** An answer ends before its settlement is in Redis: another router may hear of it a moment later. */
  async function settled(front: Front, name: string, id: string, tokens: number): Promise<void> {
    const episode = await eventually("it is settled", async () => {
      const found = (await (await get(front, `/v1/episodes/${id}`, name)).json()) as EpisodeObject;
      return found.tokens_used > 0 && found;
    });
    expect(episode.tokens_used).toBe(tokens);
  }

  test("a key's tokens are one number for all routers, and its window opens again", async () => {
    const [a, b] = await start({ alice: { tokens: 60, windowSeconds: 60 }, bob: { tokens: 60, windowSeconds: 3600 } });
    // Into the middle of a window, so that none ends meanwhile.
    pool.ahead = 60_000 - (Date.now() % 60_000) + 5_000;
    const calls = await Promise.all([a, b, a, b].map((front) => front.chat({}, as("alice"))));
    expect(calls.map((r) => r.status).sort()).toEqual([200, 200, 429, 429]);
    const denied = calls.find((r) => r.status === 429);
    expect(denied?.headers.get("x-ratelimit-reset-tokens")).toMatch(/^\d+s$/);
    expect(await denied?.json()).toMatchObject({ error: { message: expect.stringContaining("key budget of alice") } });
    expect((await b.chat({}, as("bob"))).headers.get("x-ratelimit-limit-tokens")).toBe("60");
    pool.ahead += 60_000;
    expect((await b.chat({}, as("alice"))).status).toBe(200);
  });

  test("what a key owns does not exist for another, by the same names and by guesses, at any router", async () => {
    const [a, b] = await start({ alice: {}, bob: {}, admin: { scopes: ["admin"] } });
    const mine = { "x-session-id": "s", "x-episode-id": "e" };
    const first = await a.chat({}, as("alice", mine));
    const second = await b.chat({}, as("bob", mine));
    expect([first.status, second.status]).toEqual([200, 200]);
    const keys = pool.instances.flatMap((i) => i.received.map((call) => call.headers["x-llmpool-session"]));
    expect(new Set(keys).size).toBe(2);
    const sessions = (await (await get(b, "/v1/sessions", "bob")).json()) as List<SessionObject>;
    expect(sessions.data).toHaveLength(1);
    await settled(b, "alice", "e", 10);
    await a.chat({}, as("alice", { "x-episode-id": "private" }));
    for (const name of ["bob", "admin"]) {
      const guesses = ["/v1/episodes/private", "/v1/episodes/private/audit", "/v1/episodes/private/events"];
      const unknown = await (await get(b, "/v1/episodes/nobody-has-this", name)).text();
      for (const guess of guesses) {
        const answer = await get(b, guess, name);
        expect(answer.status).toBe(404);
        // Nothing but the name tells it from one that nobody has.
        expect((await answer.text()).replaceAll("private", "nobody-has-this")).toBe(unknown);
      }
      for (const [method, path] of [
        ["DELETE", "/v1/episodes/private"],
        ["POST", "/v1/episodes/private/finish"],
      ] as const) {
        expect((await fetch(b.router.url + path, { method, headers: bearer(name) })).status).toBe(404);
      }
    }
    await settled(b, "alice", "private", 10);
    const audit = (await (await get(b, "/v1/episodes/private/audit", "alice")).json()) as List<{ event: string }>;
    expect(audit.data.map(({ event }) => event)).toEqual(["start", "admit", "settle"]);
  });

  test("scopes and roles bound what a key may do", async () => {
    const [a] = await start({ reader: { scopes: ["read"] }, coder: { scopes: ["inference"], roles: ["coder"] } });
    const url = a.router.url;
    expect(await statuses(url, "reader", "coder", "nobody")).toEqual([403, 403, 401]);
    const list = (name: string) => statusOf(fetch(`${url}/v1/episodes`, { headers: bearer(name) }));
    expect([await list("reader"), await list("coder"), await list("nobody")]).toEqual([200, 403, 401]);
    expect(pool.instances.flatMap((i) => i.received)).toEqual([]);
    for (const path of ["/healthz", "/readyz", "/metrics"]) expect((await fetch(url + path)).status).toBe(200);
  });

  test("new keys at one router leave what runs there alone", async () => {
    const [a, b] = await start({ alice: {}, bob: {} });
    for (const instance of pool.instances) {
      instance.behave = (_call, res) => {
        startStream(res);
        res.write(chunk("hel"));
        const done = setInterval(() => {
          if (!isTaken) return;
          clearInterval(done);
          res.end(
            `${chunk("lo", "stop")}: usage {"prompt_tokens":4,"completion_tokens":2,"cached_tokens":0}\n\ndata: [DONE]\n\n`,
          );
        }, 5);
      };
    }
    let isTaken = false;
    const running = await a.chat({ stream: true }, as("bob", { "x-episode-id": "e" }));
    a.router.update(pool.plan, { keys: { alice: Buffer.from(entry("alice")) } });
    expect(await statusOf(a.chat({}, as("bob")))).toBe(401);
    isTaken = true;
    expect(await running.text()).toMatch(/data: \[DONE\]\n\n$/);
    await settled(b, "bob", "e", 6);
  });
});
