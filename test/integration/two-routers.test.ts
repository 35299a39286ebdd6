import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { chunk, type FakeInstance, startStream } from "../support/fake-instance.ts";
import { type Front, Fronts } from "../support/fronts.ts";
import { hasRedis, REDIS_CURE } from "../support/redis.ts";

const EPISODES = { timeoutSeconds: 600, progressExtendSeconds: 600, maxTimeoutSeconds: 3600, heartbeatSeconds: 1 };

describe.skipIf(!hasRedis)(hasRedis ? "two routers over one Redis" : `two routers (${REDIS_CURE})`, () => {
  let pool: Fronts;
  let instances: FakeInstance[];
  let a: Front;
  let b: Front;

  beforeEach(async () => {
    pool = await Fronts.start({ spec: { episodes: EPISODES } });
    instances = pool.instances;
    [a, b] = pool.fronts as [Front, Front];
  });
  afterEach(() => pool[Symbol.asyncDispose]());

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
    pool.ahead = 1_200_000;
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
    pool.ahead = 16_000;
    const after = await eventually("it is settled", async () => {
      const episode = await b.episode("e");
      return episode.tokens_reserved === 0 && episode;
    });
    expect(after).toMatchObject({ state: "active", tokens_used: 6 });
    expect((await a.chat({}, { "x-episode-id": "e" })).status).toBe(503);
    await stream.body?.cancel();
  });
});
