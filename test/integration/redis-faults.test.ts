import { randomBytes, randomUUID } from "node:crypto";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { BudgetClaim, EpisodeEvent } from "../../src/core/store.ts";
import { systemClock } from "../../src/lib/clock.ts";
import type { LLMPoolError } from "../../src/lib/errors.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { openRedisStore, type RedisStoreOptions } from "../../src/store/redis/open.ts";
import type { RedisStore } from "../../src/store/redis/store.ts";
import { eventually } from "../support/eventually.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { hasRedis, REDIS_CURE, RedisServer } from "../support/redis.ts";
import { ask, SETTINGS, usage } from "../support/store-suite.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";

const KEY: BudgetClaim = { scope: "key", id: "k", limit: 1000 };

describe.skipIf(!hasRedis)(hasRedis ? "several routers over one Redis" : `over Redis (${REDIS_CURE})`, () => {
  let stack: AsyncDisposableStack;
  let pool: string;
  beforeEach(() => {
    stack = new AsyncDisposableStack();
    pool = randomUUID();
  });
  afterEach(() => stack.disposeAsync());

  const serve = async (...flags: string[]) => stack.use(await RedisServer.start(...flags));
  const open = async (url: string, options: Partial<RedisStoreOptions> = {}): Promise<RedisStore> =>
    stack.use(
      await openRedisStore({
        ...{ url, namespace: "test", pool, clock: systemClock, random: randomBytes, log: silentLogger },
        sessionTTLSeconds: 7200,
        lateTicks: 10,
        ...options,
      }),
    );
  const kept = async (store: RedisStore) => {
    const { spent, reserved } = await store.budget(KEY, "t");
    return [spent, reserved];
  };
  const admitted = async (store: RedisStore) => {
    const request = ask({ claims: [KEY] });
    await store.admit(request);
    return request;
  };
  const isBack = (store: RedisStore) => eventually("the store is back", () => kept(store).then(() => true));

  test("200 concurrent requests of three routers on a budget that fits 10: exactly those", async () => {
    const { url } = await serve();
    const stores = await Promise.all([open(url), open(url), open(url)]);
    const claims = [{ ...KEY, limit: 1099 }];
    const all = await Promise.all(
      Array.from({ length: 200 }, (_, i) =>
        stores[i % 3]?.admit(ask({ claims, episode: { id: "e", settings: SETTINGS } })),
      ),
    );
    expect(all.filter((a) => a?.ok)).toHaveLength(10);
    for (const store of stores) expect(await kept(store)).toEqual([0, 1000]);
  });

  test("every router is told every event once and in order, whoever caused it", async () => {
    const { url } = await serve();
    const stores = await Promise.all([open(url), open(url), open(url)]);
    const told = stores.map((store) => {
      const events: [string, EpisodeEvent][] = [];
      store.onEpisodeEvent((episode, event) => events.push([episode.id, event]));
      return events;
    });
    const [first, second, third] = stores;
    await first?.startEpisode("t", { id: "e", settings: SETTINGS });
    await Promise.all(stores.map((store) => store.progress("t", "e", "patch")));
    await second?.startEpisode("t", {
      id: "short",
      settings: { ...SETTINGS, timeoutSeconds: 1, maxTimeoutSeconds: 1 },
    });
    await third?.endEpisode("t", "e", "finished");
    for (const events of told) {
      const ends = await eventually("both ends are told", () => {
        const ended = events.filter(([, event]) => event.kind === "ended");
        return ended.length === 2 && ended;
      });
      expect(ends.map(([id, event]) => [id, event.data.reason])).toEqual([
        ["e", "finished"],
        ["short", "max_deadline"],
      ]);
      const seqs = events.filter(([id]) => id === "e").map(([, event]) => event.seq);
      expect(seqs).toEqual([1, 2, 3, 4, 5]);
    }
  });

  test("a killed server that starts again has lost nothing that was acknowledged, and heals by itself", async () => {
    const server = await serve();
    const [one, two] = [await open(server.url), await open(server.url)];
    const [done, held] = [ask({ claims: [KEY] }), ask({ claims: [KEY], episode: { id: "e", settings: SETTINGS } })];
    await one.admit(done);
    await one.settle(done.requestId, usage(30, 10));
    await one.admit(held);
    await two.startEpisode("t", { id: "f", settings: SETTINGS });
    await server.end("SIGKILL");
    await expect(one.admit(ask({ claims: [KEY] }))).rejects.toMatchObject({ code: "store_unavailable" });
    // Of what was settled in the meantime, the store hears when it is back.
    await expect(one.settle(held.requestId, usage(50))).rejects.toMatchObject({ code: "store_unavailable" });
    await server.start();
    await Promise.all([isBack(one), isBack(two)]);
    await eventually("the settlement is there", async () => (await kept(two))[1] === 0);
    expect(await kept(two)).toEqual([90, 0]);
    expect((await two.activeEpisodes()).map((e) => e.id).sort()).toEqual(["e", "f"]);
  });

  test("when a copy that lags takes over, nothing is admitted before every living router has said what it holds", async () => {
    const server = await serve();
    const wire = stack.use(await TcpProxy.start(server.port));
    let ahead = 0;
    const time = () => ({ now: Date.now() + ahead, wall: Date.now() + ahead });
    const one = await open(server.url, { time });
    const other = await open(`redis://127.0.0.1:${wire.port}`, { time });
    const told: EpisodeEvent["kind"][] = [];
    other.onEpisodeEvent((_, event) => told.push(event.kind));
    const [early, late] = [ask({ claims: [KEY] }), ask({ claims: [KEY] })];
    await one.admit(early);
    await one.startEpisode("t", { id: "e", settings: SETTINGS });
    const takeOver = await server.copy();
    // The copy has not got these.
    await one.admit(late);
    await one.settle(early.requestId, usage(40));
    const unheard = ask({ claims: [KEY] });
    await one.admit(unheard);
    await one.settle(unheard.requestId, usage(7));
    await other.admit(ask({ claims: [KEY] }));
    await one.progress("t", "e", "patch");
    await eventually("the progress is told", () => told.includes("progress"));
    await server.end("SIGKILL");
    await takeOver();
    wire.partition();
    await server.start();
    const refused = await eventually("it waits for the other", async () => {
      const error = await one.admit(ask({ claims: [KEY] })).then(
        () => undefined,
        (thrown: LLMPoolError) => thrown,
      );
      return error?.message.includes("other routers have still to say") && error;
    });
    // The other's lease, at most: after that nobody waits for it.
    expect(refused.retryAfterSeconds).toBeGreaterThan(5);
    expect(refused.retryAfterSeconds).toBeLessThanOrEqual(15);
    wire.heal();
    await Promise.all([isBack(one), isBack(other)]);
    // What was settled is settled again, by the same count; what was admitted is held again.
    await eventually("it is settled again", async () => (await kept(one))[0] === 47);
    expect(await kept(one)).toEqual([47, 200]);
    expect(await other.abandonedReservations()).toEqual([]);
    expect(one.holds(late.requestId)).toBe(true);
    await other.endEpisode("t", "e", "finished");
    await eventually("its end is told once", () => told.includes("ended"));
    // A router that does not come back is waited for until its lease has run out.
    await server.end("SIGKILL");
    wire.partition();
    await server.start();
    ahead = 14_000;
    await one.poll();
    await expect(kept(one)).rejects.toMatchObject({ code: "store_unavailable" });
    ahead = 40_000;
    await isBack(one);
    expect(told.filter((kind) => kind === "ended")).toHaveLength(1);
  });

  test("a router that is cut off denies at once, and goes on when the network heals", async () => {
    const server = await serve();
    const proxy = stack.use(await TcpProxy.start(server.port));
    const [cutOff, other] = [await open(`redis://127.0.0.1:${proxy.port}`), await open(server.url)];
    const before = ask({ claims: [KEY] });
    await cutOff.admit(before);
    proxy.partition();
    // The first waits for an answer, within its limit; then nobody waits.
    await expect(cutOff.admit(ask({ claims: [KEY] }))).rejects.toMatchObject({ code: "store_unavailable" });
    await expect(cutOff.admit(ask({ claims: [KEY] }))).rejects.toMatchObject({ code: "store_unavailable" });
    await eventually("the other one has the heartbeats", () => other.heartbeatDuty());
    expect(cutOff.heartbeatDuty()).toBe(false);
    expect((await other.admit(ask({ claims: [KEY] }))).ok).toBe(true);
    proxy.heal();
    await isBack(cutOff);
    // What was on its way in the cut may have been admitted or not: either way nothing of it is left.
    await eventually("only what is known is reserved", async () => (await kept(other))[1] === 200);
    await cutOff.settle(before.requestId, usage(10));
    expect(await kept(other)).toEqual([10, 100]);
  });

  test("what a router that died held is left to the others, and the heartbeats with it", async () => {
    const server = await serve();
    const wire = stack.use(await TcpProxy.start(server.port));
    let now = Date.now();
    const time = () => ({ now, wall: now });
    const [dead, alive] = [await open(`redis://127.0.0.1:${wire.port}`, { time }), await open(server.url, { time })];
    const idle = { ...SETTINGS, idleTimeoutSeconds: 20 };
    const held = ask({ claims: [KEY], instance: "7", episode: { id: "e", settings: idle } });
    await dead.admit(held);
    expect([dead.heartbeatDuty(), alive.heartbeatDuty()]).toEqual([true, false]);
    await alive.poll();
    expect(await alive.abandonedReservations()).toEqual([]);
    wire.partition();
    now += 15_001;
    await alive.poll();
    expect(alive.heartbeatDuty()).toBe(true);
    // Once may be a step of the clock.
    expect(await alive.abandonedReservations()).toEqual([]);
    await eventually("it is taken for gone", async () => (await alive.abandonedReservations()).length > 0);
    expect(await alive.abandonedReservations()).toMatchObject([
      { requestId: held.requestId, instance: "7", tokens: 100 },
    ]);
    // It holds no episode open any more.
    now += 5_000;
    expect((await alive.episode("t", "e"))?.endReason).toBe("idle");
    await alive.settle(held.requestId, usage(70));
    expect(await kept(alive)).toEqual([70, 0]);
    // Back again, it spends nothing on what was taken from it, and charges it to nobody twice.
    wire.heal();
    await isBack(dead);
    expect(dead.holds(held.requestId)).toBe(false);
    await dead.settle(held.requestId, usage(70));
    expect(await kept(alive)).toEqual([70, 0]);
  });

  test("a settlement whose answer was lost, before the server was killed and started again, is charged once", async () => {
    const server = await serve();
    const wire = stack.use(await TcpProxy.start(server.port));
    const store = await open(`redis://127.0.0.1:${wire.port}`);
    // The server knows the scripts by now.
    await store.settle((await admitted(store)).requestId, null);
    const held = await admitted(store);
    wire.loseAnswers();
    await expect(store.settle(held.requestId, usage(70))).rejects.toMatchObject({ code: "store_unavailable" });
    await server.end("SIGKILL");
    await server.start();
    wire.heal();
    await isBack(store);
    await store.settle(held.requestId, usage(70));
    expect(await kept(store)).toEqual([70, 0]);
  });

  test("what others have settled does not come back with a router that was cut off, when the server is another one by then", async () => {
    const server = await serve();
    const wire = stack.use(await TcpProxy.start(server.port));
    let now = Date.now();
    const time = () => ({ now, wall: now });
    const [lost, other] = [await open(`redis://127.0.0.1:${wire.port}`, { time }), await open(server.url, { time })];
    const held = ask({ claims: [KEY] });
    await lost.admit(held);
    wire.partition();
    now += 15_001;
    await eventually("it is taken for gone", async () => (await other.abandonedReservations()).length > 0);
    await other.settle(held.requestId, usage(70));
    for (let restarts = 0; restarts < 2; restarts++) {
      await server.end("SIGKILL");
      await server.start();
      await isBack(other);
      if (restarts === 0) wire.heal();
      await isBack(lost);
      expect(await kept(other)).toEqual([70, 0]);
    }
    await lost.settle(held.requestId, usage(70));
    expect(await kept(other)).toEqual([70, 0]);
  });

  test("nor when that router is the first to come back, and the other has still to say what it holds", async () => {
    const server = await serve();
    const wires = [stack.use(await TcpProxy.start(server.port)), stack.use(await TcpProxy.start(server.port))];
    let now = Date.now();
    const time = () => ({ now, wall: now });
    const [lost, other] = [
      await open(`redis://127.0.0.1:${wires[0]?.port}`, { time }),
      await open(`redis://127.0.0.1:${wires[1]?.port}`, { time }),
    ];
    const held = ask({ claims: [KEY] });
    await lost.admit(held);
    wires[0]?.partition();
    now += 15_001;
    await eventually("it is taken for gone", async () => (await other.abandonedReservations()).length > 0);
    await other.settle(held.requestId, usage(70));
    wires[1]?.partition();
    await server.end("SIGKILL");
    await server.start();
    wires[0]?.heal();
    await eventually("it waits for the other, and has asked more than once", async () => {
      const refused = await lost.admit(ask({ claims: [KEY] })).catch((error: Error) => error.message);
      await lost.poll();
      return String(refused).includes("other routers have still to say");
    });
    wires[1]?.heal();
    await Promise.all([isBack(lost), isBack(other)]);
    expect(await kept(other)).toEqual([70, 0]);
    expect(lost.holds(held.requestId)).toBe(false);
    await lost.settle(held.requestId, usage(70));
    expect(await kept(other)).toEqual([70, 0]);
  });

  test("an episode that a copy has forgotten is none that begins later: neither its reservations nor its end", async () => {
    const server = await serve();
    const store = await open(server.url);
    const inEpisode = (id: string) => ask({ claims: [KEY], episode: { id, settings: SETTINGS } });
    await admitted(store);
    const takeOver = await server.copy();
    const held = inEpisode("e");
    await store.admit(held);
    const told: string[] = [];
    store.onEpisodeEvent(({ id }, { kind }) => told.push(`${id} ${kind}`));
    await store.startEpisode("t", { id: "over", settings: SETTINGS });
    await store.endEpisode("t", "over", "finished");
    await eventually("its end is told", () => told.includes("over ended"));
    await server.end("SIGKILL");
    await takeOver();
    await server.start();
    await isBack(store);
    // The copy would number them as it did those that it has forgotten.
    for (const id of ["e", "f"]) expect(await store.admit(inEpisode(id))).toMatchObject({ ok: true });
    await store.settle(held.requestId, usage(40));
    for (const id of ["e", "f"]) {
      expect(await store.episode("t", id)).toMatchObject({ tokensUsed: 0, tokensReserved: 100 });
      await store.endEpisode("t", id, "cancelled");
      await eventually("its end is told", () => told.includes(`${id} ended`));
    }
    expect(await kept(store)).toEqual([40, 300]);
  });

  test("an admission that arrives after its router has given up on the connection reserves nothing", async () => {
    const server = await serve();
    const wire = stack.use(await TcpProxy.start(server.port));
    const [late, other] = [await open(`redis://127.0.0.1:${wire.port}`), await open(server.url)];
    // The server knows the script by now.
    await other.settle((await admitted(other)).requestId, null);
    wire.hold();
    await expect(late.admit(ask({ claims: [KEY] }))).rejects.toMatchObject({ code: "store_unavailable" });
    await isBack(late);
    await late.poll();
    await wire.deliver();
    expect(await kept(other)).toEqual([0, 0]);
    // Nor does it undo what the router holds by now.
    const held = await admitted(late);
    expect([late.holds(held.requestId), await other.abandonedReservations()]).toEqual([true, []]);
  });

  test("a budget that a router has seen spent is denied without a question to the store, until its window or episode ends", async () => {
    const server = await serve();
    let now = Date.UTC(2026, 0, 1);
    const store = await open(server.url, { time: () => ({ now, wall: now }) });
    const hour: BudgetClaim = { ...KEY, limit: 150, windowSeconds: 3600 };
    const inHour = (change = {}) => ask({ claims: [hour], ...change });
    const inEpisode = () =>
      ask({ episode: { id: "e", settings: { ...SETTINGS, retainSeconds: 0, budgetTokens: 150 } } });
    for (const request of [inHour(), inEpisode()]) {
      await store.admit(request);
      expect(await store.admit({ ...request, requestId: "req_reserved" })).toMatchObject({ ok: false });
      await store.settle(request.requestId, usage(120));
      expect(await store.admit({ ...request, requestId: "req_spent" })).toMatchObject({ ok: false });
    }
    server.pause();
    expect(await store.admit(inHour())).toMatchObject({
      ok: false,
      budget: { limit: 150, spent: 120, resetSeconds: 3600 },
    });
    expect(await store.admit(inEpisode())).toMatchObject({ ok: false, budget: { scope: "episode", id: "e" } });
    server.resume();
    await isBack(store);
    // Less than what is left is a question, and so is a limit that was raised.
    for (const request of [inHour({ worstCase: 10 }), inHour({ claims: [{ ...hour, limit: 500 }] })]) {
      expect((await store.admit(request)).ok).toBe(true);
    }
    await store.endEpisode("t", "e", "finished");
    await store.poll();
    expect((await store.admit(inEpisode())).ok).toBe(true);
    now += 3_600_000;
    expect((await store.admit(inHour())).ok).toBe(true);
  });

  test("denials that needed no question are in the journal, also when the store went away before it heard of them", async () => {
    const server = await serve();
    const wire = stack.use(await TcpProxy.start(server.port));
    const store = await open(`redis://127.0.0.1:${wire.port}`);
    const inEpisode = () => ask({ episode: { id: "e", settings: { ...SETTINGS, budgetTokens: 100 } } });
    const all = inEpisode();
    await store.admit(all);
    await store.settle(all.requestId, usage(100));
    await store.poll();
    for (let i = 0; i < 6; i++) expect(await store.admit(inEpisode())).toMatchObject({ ok: false });
    wire.partition();
    await store.poll();
    wire.heal();
    await isBack(store);
    await store.poll();
    expect((await store.audit("t", "e", 0)).at(-1)).toMatchObject({ kind: "deny", data: { count: 6 } });
  });

  test("in a cluster a pool lives on the node of its slot, whichever node the URL names", async () => {
    const nodes = await RedisServer.startCluster(stack);
    const stores = [await open(nodes[0].url), await open(nodes[1].url)];
    const claims = [{ ...KEY, limit: 1099 }];
    const all = await Promise.all(Array.from({ length: 50 }, (_, i) => stores[i % 2]?.admit(ask({ claims }))));
    expect(all.filter((a) => a?.ok)).toHaveLength(10);
    for (const store of stores) expect(await kept(store)).toEqual([0, 1000]);
    expect(nodes.map((node) => Number(node.cli("dbsize"))).sort((a, b) => a - b)[0]).toBe(0);
  });

  test("a router that slept for too long admits nothing until it is counted in again", async () => {
    const { url } = await serve();
    let now = Date.now();
    const time = () => ({ now, wall: now });
    // Its timers do not fire: it looks at nothing by itself.
    const [asleep, awake] = [await open(url, { time, clock: new FakeClock() }), await open(url, { time })];
    const held = ask({ claims: [KEY] });
    await asleep.admit(held);
    now += 15_001;
    await eventually("it is taken for gone", async () => (await awake.abandonedReservations()).length > 0);
    await expect(asleep.admit(ask({ claims: [KEY] }))).rejects.toMatchObject({ code: "store_unavailable" });
    await asleep.poll();
    expect(asleep.holds(held.requestId)).toBe(false);
    expect((await asleep.admit(ask({ claims: [KEY] }))).ok).toBe(true);
    expect(await kept(awake)).toEqual([0, 200]);
  });

  test("a volatile server is refused with the cure, and so is one that is not there; the password is in no message", async () => {
    const volatile = await serve("--appendonly", "no", "--requirepass", "s3cret");
    const url = `redis://:s3cret@127.0.0.1:${volatile.port}`;
    await expect(open(url)).rejects.toThrow("appendonly yes");
    await open(url, { allowVolatile: true });
    const wrong = await open(url.replace("s3cret", "wr0ng")).catch((error: Error) => error);
    expect(wrong).toMatchObject({ code: "store_unavailable", message: expect.stringContaining("WRONGPASS") });
    await volatile.end("SIGKILL");
    const away = await open(url).catch((error: Error) => error);
    expect(away).toMatchObject({ code: "store_unavailable", message: expect.stringContaining("ECONNREFUSED") });
    const bad = await open("redis://:s3cret@[broken").catch((error: Error) => error);
    for (const error of [wrong, away, bad]) {
      expect(`${error}${error instanceof Error ? error.stack : ""}`).not.toMatch(/s3cret|wr0ng/);
    }
  });
});
