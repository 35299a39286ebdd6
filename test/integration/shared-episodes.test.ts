import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { chunk, type FakeInstance, startStream } from "../support/fake-instance.ts";
import { type Front, Fronts } from "../support/fronts.ts";
import { hasRedis, REDIS_CURE } from "../support/redis.ts";

const SPEC = {
  episodes: { timeoutSeconds: 600, progressExtendSeconds: 60, maxTimeoutSeconds: 3600, heartbeatSeconds: 1 },
};

describe.skipIf(!hasRedis)(hasRedis ? "episodes of several routers" : `episodes over Redis (${REDIS_CURE})`, () => {
  let pool: Fronts;
  let a: Front;
  let b: Front;
  /** Sends one more token of every stream that runs. */
  let token: () => void;

  beforeEach(async () => {
    pool = await Fronts.start({ spec: SPEC });
    [a, b] = pool.fronts as [Front, Front];
    const streams = new Set<() => void>();
    token = () => {
      for (const write of streams) write();
    };
    for (const instance of pool.instances) {
      instance.behave = ({ aborted }, res) => {
        startStream(res);
        res.write(chunk("hel"));
        const write = () => void res.write(chunk("lo"));
        streams.add(write);
        void aborted.then(() => streams.delete(write));
      };
    }
  });
  afterEach(() => pool[Symbol.asyncDispose]());

  const running = (front: Front, episode: string) => front.chat({ stream: true }, { "x-episode-id": episode });
  const report = (front: Front, episode: string, event: string) =>
    front.post(`/v1/episodes/${episode}/progress`, { event });
  const start = (front: Front, episode: string, settings: object = {}) =>
    front.post("/v1/episodes", { id: episode, ...settings });
  const received = (instances: readonly FakeInstance[]) => instances.reduce((n, i) => n + i.received.length, 0);

  test("events are streamed by any router, whoever caused them, and read again from the last that was seen", async () => {
    await start(a, "e");
    const events = (front: Front, last?: number) =>
      fetch(`${front.router.url}/v1/episodes/e/events`, {
        headers: last === undefined ? {} : { "last-event-id": String(last) },
      });
    const streams = [await events(a), await events(b), await events(b, 1)];
    await report(b, "e", "patch");
    await report(a, "e", "test_execution");
    await b.post("/v1/episodes/e/finish", {});
    const texts = await Promise.all(streams.map((stream) => stream.text()));
    // After the end, any router tells the rest.
    texts.push(await (await events(a, 2)).text(), await (await events(b, 3)).text());
    const told = texts.map((text) =>
      [...text.matchAll(/^id: (\d+)\nevent: (\w+)/gm)].map(([, id, kind]) => `${id} ${kind}`),
    );
    const all = ["1 started", "2 progress", "3 progress", "4 ended"];
    expect(told).toEqual([all, all, all.slice(1), all.slice(2), all.slice(3)]);
  });

  test("tokens are progress by themselves, at whichever router they flow; the window is worth one extension", async () => {
    await start(a, "e");
    const streams = [await running(a, "e"), await running(b, "e")];
    pool.ahead = 570_000;
    await eventually("it is extended", async () => {
      token();
      return (await a.episode("e")).extensions === 1;
    });
    const { time_remaining_s, last_progress } = await b.episode("e");
    expect(time_remaining_s).toBeGreaterThan(60);
    expect(last_progress.event).toBe("token_usage");
    // Into the next window, and again.
    pool.ahead += 60_000;
    await eventually("it is extended again", async () => {
      token();
      return (await b.episode("e")).extensions === 2;
    });
    for (const stream of streams) await stream.body?.cancel();
  });

  test("silence, heartbeats and new requests without a token do not move the deadline", async () => {
    for (const instance of pool.instances) instance.behave = (_call, res) => startStream(res);
    await start(a, "e");
    const calls = [running(a, "e"), running(b, "e")];
    await eventually("both run", () => received(pool.instances) === 2);
    pool.ahead = 570_000;
    for (const front of [a, b, a, b]) expect((await report(front, "e", "heartbeat")).status).toBe(200);
    calls.push(running(a, "e"));
    // Longer than routers take to report tokens, had there been any.
    const beats = a.lines.length + b.lines.length;
    await eventually("some heartbeats", () => a.lines.length + b.lines.length >= beats + 3);
    expect((await b.episode("e")).extensions).toBe(0);
    pool.ahead = 601_000;
    for (const call of calls) expect(await (await call).text()).toContain("episode_deadline_exceeded");
    expect(await a.episode("e")).toMatchObject({ state: "ended", end_reason: "deadline", extensions: 0 });
  });

  test("a deadline that comes while the store is away is acted on, too", async () => {
    await start(a, "e", { timeout_s: 2, extend_s: 0 });
    const streams = [await running(a, "e"), await running(b, "e")];
    a.wire.partition();
    expect(await streams[0]?.text()).toContain("the deadline of episode e came while the store was away");
    expect(await streams[1]?.text()).toContain("ended while this ran: deadline");
    a.wire.heal();
    await eventually("both are settled", async () => (await b.episode("e")).tokens_reserved === 0);
  });

  test("by the store's clock alone: when that was set back, an episode goes on past what its router had expected", async () => {
    await start(a, "e", { timeout_s: 1, extend_s: 0 });
    const stream = await running(a, "e");
    pool.ahead = -300_000;
    const beats = a.lines.length;
    // Each is a second.
    await eventually("heartbeats", () => a.lines.length >= beats + 4);
    const reader = stream.body?.getReader();
    token();
    for (let text = ""; !text.includes("lo"); ) {
      const { value, done } = (await reader?.read()) ?? { done: true };
      expect(done).toBe(false);
      text += new TextDecoder().decode(value);
      expect(text).not.toContain("error");
    }
    await reader?.cancel();
  });

  test("idle, deadline and max_deadline are told apart in answer, metric and log, and counted once", async () => {
    await pool[Symbol.asyncDispose]();
    const episodes = { ...SPEC.episodes, idleTimeoutSeconds: 300 };
    pool = await Fronts.start({ spec: { episodes } });
    [a, b] = pool.fronts as [Front, Front];
    for (const instance of pool.instances) instance.behave = (_call, res) => startStream(res);
    await start(a, "idle");
    const calls = {
      deadline: a.chat({}, { "x-episode-id": "deadline" }),
      max_deadline:
        (await start(b, "max_deadline", { max_timeout_s: 600 })) && b.chat({}, { "x-episode-id": "max_deadline" }),
    };
    await eventually("both run", () => received(pool.instances) === 2);
    pool.ahead = 301_000;
    await eventually("it is idle", async () => (await b.episode("idle")).end_reason === "idle");
    pool.ahead = 601_000;
    for (const [reason, call] of Object.entries(calls)) {
      const answer = await call;
      expect([answer.status, await answer.json()]).toEqual([
        504,
        {
          error: expect.objectContaining({
            code: "episode_deadline_exceeded",
            message: expect.stringMatching(`: ${reason}$`),
          }),
        },
      ]);
    }
    for (const reason of ["idle", "deadline", "max_deadline"]) {
      const late = await b.chat({}, { "x-episode-id": reason });
      expect([late.status, await late.text()]).toEqual([409, expect.stringContaining(`reached its limit (${reason})`)]);
    }
    const lines = [...a.lines, ...b.lines].map((line) => JSON.parse(line) as { event: string; reason?: string });
    const ends = lines.filter(({ event }) => event === "episode_ended");
    expect(ends.map(({ reason }) => reason).sort()).toEqual(["deadline", "idle", "max_deadline"]);
    const metrics = await Promise.all([a, b].map(async (f) => (await fetch(`${f.router.url}/metrics`)).text()));
    const counted = metrics.flatMap((text) => [
      ...text.matchAll(/^llmpool_episodes_ended_total\{reason="(\w+)"\} 1$/gm),
    ]);
    expect(counted.map(([, reason]) => reason).sort()).toEqual(["deadline", "idle", "max_deadline"]);
  });
});
