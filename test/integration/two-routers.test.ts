import { randomBytes, randomUUID } from "node:crypto";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { EpisodeObject } from "../../src/api/http.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { type Router, startRouter } from "../../src/router/server.ts";
import { openRedisStore } from "../../src/store/redis/open.ts";
import type { RedisStore } from "../../src/store/redis/store.ts";
import { eventually } from "../support/eventually.ts";
import { chunk, FakeInstance, FakeSource, startStream } from "../support/fake-instance.ts";
import { poolPlan } from "../support/pool.ts";
import { hasRedis, REDIS_CURE, RedisServer } from "../support/redis.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";

/** A router with its own way to Redis. */
interface Front {
  router: Router;
  store: RedisStore;
  wire: TcpProxy;
  lines: string[];
  chat(body: object, headers?: Record<string, string>): Promise<Response>;
  post(path: string, body: object): Promise<Response>;
  episode(id: string): Promise<EpisodeObject>;
}

describe.skipIf(!hasRedis)(hasRedis ? "two routers over one Redis" : `two routers (${REDIS_CURE})`, () => {
  let stack: AsyncDisposableStack;
  let instances: FakeInstance[];
  let a: Front;
  let b: Front;
  /** How far the store's clock is ahead of this machine's. */
  let ahead: number;

  beforeEach(async () => {
    stack = new AsyncDisposableStack();
    ahead = 0;
    const server = stack.use(await RedisServer.start());
    instances = [stack.use(await FakeInstance.start("0")), stack.use(await FakeInstance.start("1"))];
    const pool = randomUUID();
    a = await front(server, pool);
    b = await front(server, pool);
  });
  afterEach(() => stack.disposeAsync());

  async function front(server: RedisServer, pool: string): Promise<Front> {
    const wire = stack.use(await TcpProxy.start(server.port));
    const time = () => ({ now: Date.now() + ahead, wall: Date.now() + ahead });
    const common = { clock: systemClock, log: silentLogger };
    const url = `redis://127.0.0.1:${wire.port}`;
    const store = stack.use(
      await openRedisStore({
        url,
        namespace: "test",
        pool,
        random: randomBytes,
        sessionTTLSeconds: 7200,
        lateTicks: 10,
        time,
        ...common,
      }),
    );
    const lines: string[] = [];
    const router = stack.use(
      await startRouter({
        plan: poolPlan({
          instances: 2,
          roles: [{ name: "planner" }],
          episodes: { timeoutSeconds: 600, progressExtendSeconds: 600, maxTimeoutSeconds: 3600, heartbeatSeconds: 1 },
        }),
        secrets: {},
        source: new FakeSource(instances.map((i) => i.endpoint())),
        store,
        token: "pool-token",
        host: "127.0.0.1",
        port: 0,
        writeLine: (line) => void lines.push(line),
        ...common,
      }),
    );
    const post: Front["post"] = (path, body) =>
      fetch(router.url + path, { method: "POST", body: JSON.stringify(body) });
    return {
      router,
      store,
      wire,
      lines,
      post,
      chat: (body, headers = {}) =>
        fetch(`${router.url}/v1/chat/completions`, {
          method: "POST",
          headers: { "content-type": "application/json", ...headers },
          body: JSON.stringify({
            model: "planner",
            messages: [{ role: "user", content: "hi" }],
            max_tokens: 20,
            ...body,
          }),
        }),
      episode: async (id) => (await (await fetch(`${router.url}/v1/episodes/${id}`)).json()) as EpisodeObject,
    };
  }

  /** Streams that have begun and do not end by themselves. */
  function stall(): void {
    for (const instance of instances) {
      instance.behave = (_, res) => {
        startStream(res);
        res.write(chunk("hel"));
      };
    }
  }
  const running = (front: Front, episode: string) => front.chat({ stream: true }, { "x-episode-id": episode });

  test("a session that one router has bound is served there by the other, which did not know of it", async () => {
    const { promise: go, resolve } = Promise.withResolvers<void>();
    const [first] = instances;
    if (!first) throw new Error("no instance");
    const answer = first.behave;
    first.behave = async (call, res) => {
      if (call.headers["x-llmpool-session"] === undefined) await go;
      await answer(call, res);
    };
    expect((await b.chat({}, { "x-session-id": "s" })).headers.get("x-llmpool-instance")).toBe("0");
    // For this one, the other instance is the less loaded.
    const busy = a.chat({});
    await eventually("it runs", () => first.received.length === 2);
    const turn = await a.chat({}, { "x-session-id": "s" });
    expect(turn.headers.get("x-llmpool-instance")).toBe("0");
    expect(turn.headers.get("x-llmpool-rebound")).toBeNull();
    const elsewhere = await b.chat({}, { "x-session-id": "s", "x-llmpool-instance": "1" });
    expect(elsewhere.status).toBe(400);
    resolve();
    await busy;
    expect(instances[1]?.received).toEqual([]);
  });

  test("an instance that is asked for, and is not the one where another router bound the session, is refused and costs nothing", async () => {
    await a.chat({}, { "x-session-id": "s", "x-episode-id": "e" });
    const before = (await a.episode("e")).tokens_used;
    const refused = await b.chat({}, { "x-session-id": "s", "x-episode-id": "e", "x-llmpool-instance": "1" });
    expect([refused.status, await refused.text()]).toEqual([400, expect.stringContaining("lives on instance 0")]);
    expect(await b.episode("e")).toMatchObject({ tokens_used: before, tokens_reserved: 0 });
  });

  test("an episode that is finished at one router ends what it runs at both, and is settled", async () => {
    stall();
    const streams = [await running(a, "e"), await running(b, "e")];
    const events = await fetch(`${a.router.url}/v1/episodes/e/events`);
    expect((await b.post("/v1/episodes/e/finish", {})).status).toBe(200);
    for (const stream of streams) expect(await stream.text()).toContain('"code":"episode_ended"');
    expect(await events.text()).toMatch(/event: started[\s\S]*event: ended\ndata: .*"finished"/);
    await eventually("both are settled", async () => (await b.episode("e")).tokens_reserved === 0);
    expect((await a.chat({}, { "x-episode-id": "e" })).status).toBe(409);
  });

  test("there is one deadline: extended once, and acted on at both", async () => {
    stall();
    await a.post("/v1/episodes", { id: "e" });
    const streams = [await running(a, "e"), await running(b, "e")];
    const reports = await Promise.all([a, b, a, b].map((f) => f.post("/v1/episodes/e/progress", { event: "patch" })));
    expect(reports.map((r) => r.status)).toEqual([200, 200, 200, 200]);
    expect([(await a.episode("e")).extensions, (await b.episode("e")).extensions]).toEqual([1, 1]);
    ahead = 1_200_000;
    for (const stream of streams) expect(await stream.text()).toContain('"code":"episode_deadline_exceeded"');
    expect(await b.episode("e")).toMatchObject({ state: "ended", end_reason: "deadline" });
  });

  test("one router writes the heartbeats; when it is gone the other does, and asks what it left open", async () => {
    stall();
    const [first] = instances;
    const stream = await running(a, "e");
    await eventually("heartbeats", () => a.lines.length >= 2);
    expect(b.lines).toEqual([]);
    const reserved = (await b.episode("e")).tokens_reserved;
    expect(reserved).toBeGreaterThan(0);
    const id = String(first?.received[0]?.headers["x-request-id"]);
    first?.records.set(id, { prompt_tokens: 5, completion_tokens: 1, cached_tokens: 0 });
    a.wire.partition();
    await eventually("heartbeats of the other", () => b.lines.length >= 2);
    expect((await b.episode("e")).tokens_reserved).toBe(reserved);
    ahead = 16_000;
    const after = await eventually("it is settled", async () => {
      const episode = await b.episode("e");
      return episode.tokens_reserved === 0 && episode;
    });
    expect(after).toMatchObject({ state: "active", tokens_used: 6 });
    expect((await a.chat({}, { "x-episode-id": "e" })).status).toBe(503);
    await stream.body?.cancel();
  });
});
