import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { SCRIPTS } from "../../src/store/redis/scripts/scripts.ts";
import { eventually } from "../support/eventually.ts";
import { chunk, type FakeInstance, startStream, USAGE_FRAME } from "../support/fake-instance.ts";
import { type Front, Fronts } from "../support/fronts.ts";
import { hasRedis, REDIS_CURE } from "../support/redis.ts";

const EPISODES = { timeoutSeconds: 600, progressExtendSeconds: 600, maxTimeoutSeconds: 3600, heartbeatSeconds: 1 };

describe.skipIf(!hasRedis)(hasRedis ? "two routers over one Redis" : `two routers (${REDIS_CURE})`, () => {
  let pool: Fronts;
  let instances: FakeInstance[];
  let a: Front;
  let b: Front;

  beforeEach(async () => {
    pool = await Fronts.start({ spec: { episodes: EPISODES, rebindAfterSeconds: 1 } });
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

  test("a session that one router has moved, because its instance was killed, is served there by the other", async () => {
    const [first, second] = instances;
    if (!first || !second) throw new Error("no instance");
    const turn = { "x-session-id": "s" };
    expect((await b.chat({}, turn)).headers.get("x-llmpool-instance")).toBe("0");
    a.source.set([first.endpoint({ state: "Failed" }), second.endpoint()]);
    await first.close();
    const moved = await a.chat({}, turn);
    expect(["x-llmpool-instance", "x-llmpool-rebound"].map((name) => moved.headers.get(name))).toEqual(["1", "true"]);
    // This one remembers the session where it was, and has heard nothing of the end of that instance.
    const next = await b.chat({}, turn);
    expect(["x-llmpool-instance", "x-llmpool-rebound"].map((name) => next.headers.get(name))).toEqual(["1", null]);
    const key = second.received[0]?.headers["x-llmpool-session"];
    expect(second.received.map(({ headers }) => headers["x-llmpool-session"])).toEqual([key, key]);
  });

  test.each(["the router that binds the session", "the one that has not heard of it"])(
    "a call asks the store once before its dispatch, and never for a token: %s",
    async (who) => {
      const [first] = instances;
      if (!first) throw new Error("no instance");
      const names = new Map(Object.entries(SCRIPTS).map(([name, { sha }]) => [sha, name]));
      /** What is asked as time passes, whether there are calls or not. */
      const background = ["tick", "reservations", "sessionCounts", "episode", "episodes"];
      const called = { "x-session-id": "s", "x-episode-id": "e" };
      if (who !== "the router that binds the session") await b.chat({}, called);
      const { promise: go, resolve } = Promise.withResolvers<void>();
      await using monitor = await pool.server.monitor();
      const asked = () =>
        monitor.commands
          .map((line) => names.get(/"evalsha" "(\w+)"/i.exec(line)?.[1] ?? "") ?? "another command")
          .slice(1) // the monitor's own answer
          .filter((name) => !background.includes(name));
      first.behave = async (_, res) => {
        startStream(res);
        for (let i = 0; i < 200; i++) res.write(chunk(`t${i} `));
        await go;
        res.end(`${chunk("", "stop")}${USAGE_FRAME}data: [DONE]\n\n`);
      };
      const stream = await a.chat({ stream: true }, called);
      const reader = stream.body?.getReader();
      for (let text = ""; !text.includes("t199"); ) text += new TextDecoder().decode((await reader?.read())?.value);
      // The monitor sees all in order: with this, it has seen what was asked before.
      pool.server.cli("echo", "now");
      const before = await eventually("the monitor has caught up", () => {
        const names = asked();
        return names.at(-1) === "another command" && names.slice(0, -1);
      });
      // Tokens are progress, which is told once a second.
      expect(before.filter((name) => name !== "changeEpisode")).toEqual(["admit"]);
      expect(before.length).toBeLessThan(10);
      resolve();
      while (!(await reader?.read())?.done);
      await eventually("it is settled", () => asked().includes("settle"));
      expect(asked().filter((name) => name === "admit")).toHaveLength(1);
    },
  );

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

  test("a heartbeat names the instances on which the episode ran for another router", async () => {
    const answer = await b.chat({}, { "x-episode-id": "e", "x-session-id": "s" });
    const on = answer.headers.get("x-llmpool-instance");
    await eventually("a line that says where", () =>
      a.lines.some((line) => {
        const { episode_id, instances: named } = JSON.parse(line) as { episode_id: string; instances: string[] };
        return episode_id === "e" && named.includes(on ?? "");
      }),
    );
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
