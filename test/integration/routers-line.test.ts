import { randomBytes, randomUUID } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { TokenCheck } from "../../runtime-image/server/auth.ts";
import { InstanceServer } from "../../runtime-image/server/server.ts";
import { createBackend } from "../../runtime-image/stub/backend.ts";
import type { LLMBackend } from "../../src/api/backend.ts";
import type { EpisodeObject, InstanceObject, List } from "../../src/api/http.ts";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { LEAD } from "../../src/core/fair-share.ts";
import { type Clock, systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { type Router, startRouter } from "../../src/router/server.ts";
import { openRedisStore } from "../../src/store/redis/open.ts";
import { eventually } from "../support/eventually.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { FakeSource } from "../support/fake-instance.ts";
import { poolPlan } from "../support/pool.ts";
import { hasRedis, REDIS_CURE, RedisServer } from "../support/redis.ts";
import { tempDir } from "../support/temp-dir.ts";

/** A real instance over the stub. What it starts waits at a gate that the test opens. */
interface Instance {
  server: InstanceServer;
  endpoint: Endpoint;
  /** What it began, by the words of the prompt, in order. */
  started: string[];
  /** Lets the one that began first, of those that still run, end. */
  open(): void;
}

describe.skipIf(!hasRedis)(
  hasRedis ? "one line for the requests of two routers" : `two routers (${REDIS_CURE})`,
  () => {
    let stack: AsyncDisposableStack;
    let instance: Instance;
    let a: Router;
    let b: Router;

    beforeEach(() => {
      stack = new AsyncDisposableStack();
    });
    afterEach(() => stack.disposeAsync());

    /** `clock` is the instance's. */
    async function start(sessions: number, spec: object = {}, clock: Clock = systemClock): Promise<void> {
      const redis = stack.use(await RedisServer.start());
      instance = await startInstance(sessions, clock);
      const pool = randomUUID();
      const front = async () => {
        const common = { clock: systemClock, log: silentLogger };
        const store = stack.use(
          await openRedisStore({
            url: redis.url,
            namespace: "test",
            pool,
            random: randomBytes,
            sessionTTLSeconds: 7200,
            ...common,
          }),
        );
        return stack.use(
          await startRouter({
            plan: poolPlan({ instances: 1, sessionsPerInstance: sessions, requestTimeoutSeconds: 600, ...spec }),
            secrets: {},
            source: new FakeSource([instance.endpoint]),
            store,
            token: "pool-token",
            host: "127.0.0.1",
            port: 0,
            writeLine: () => {},
            ...common,
          }),
        );
      };
      [a, b] = [await front(), await front()];
    }

    async function startInstance(sessions: number, clock: Clock): Promise<Instance> {
      const dir = await tempDir();
      await writeFile(join(dir, "token"), "pool-token");
      const server = new InstanceServer({
        id: "0",
        sessions,
        requestTimeoutMs: 600_000,
        tokens: await TokenCheck.load(join(dir, "token")),
        clock,
        log: silentLogger,
      });
      stack.defer(() => server.close());
      const stub = { ttftMs: 0, interTokenMs: 0, replyTokens: 8, errorRate: 0 };
      const backend = await createBackend(
        { contextTokens: 4_000_000, sessions, sessionTTLSeconds: 600, stateDir: dir, stub },
        { clock: systemClock },
      );
      const started: string[] = [];
      const gates: (() => void)[] = [];
      const gated = Object.create(backend) as LLMBackend;
      gated.stats = backend.stats.bind(backend);
      gated.generate = async function* (request, options) {
        started.push(/say (\S+)/.exec(JSON.stringify(request.prompt))?.[1]?.replace(/["\\].*/, "") ?? "");
        const { promise, resolve } = Promise.withResolvers<void>();
        gates.push(resolve);
        options.signal.addEventListener("abort", () => resolve(), { once: true });
        await promise;
        yield* backend.generate(request, options);
      };
      const url = `http://127.0.0.1:${await server.listen("127.0.0.1", 0)}`;
      server.become("Ready", gated);
      return {
        server,
        started,
        endpoint: { uid: "i", id: "0", variant: "default", url, state: "Ready", restarts: 0 },
        open: () => gates.shift()?.(),
      };
    }

    const ask = (router: Router, text: string, headers: Record<string, string>, signal?: AbortSignal) =>
      fetch(`${router.url}/v1/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        body: JSON.stringify({ messages: [{ role: "user", content: `say ${text}` }], max_tokens: 4 }),
        ...(signal && { signal }),
      });
    const queued = async (router: Router) =>
      ((await (await fetch(`${router.url}/v1/instances`)).json()) as List<InstanceObject>).data[0]?.queued;
    const waits = (router: Router, count: number) =>
      eventually(`${count} wait`, async () => (await queued(router)) === count);
    async function startEpisode(router: Router, id: string, timeoutSeconds: number): Promise<void> {
      const body = JSON.stringify({ id, timeout_s: timeoutSeconds });
      expect((await fetch(`${router.url}/v1/episodes`, { method: "POST", body })).status).toBe(201);
    }
    const episode = async (router: Router, id: string) =>
      (await (await fetch(`${router.url}/v1/episodes/${id}`)).json()) as EpisodeObject;
    const waitingThere = async () =>
      Number(/^llmpool_instance_requests_waiting (\d+)/m.exec(await instance.server.metrics.metrics.expose())?.[1]);
    /** Ends what runs, one after another, until `count` have begun. */
    async function letBegin(count: number): Promise<string[]> {
      await eventually(`${count} have begun`, () => {
        if (instance.started.length < count) instance.open();
        return instance.started.length >= count;
      });
      return instance.started;
    }

    test("a batch of late episodes at one router does not hold up an early one at the other", async () => {
      await start(1);
      const answers = [ask(a, "first", {})];
      await eventually("the slot is taken", () => instance.started.length === 1);
      for (let i = 1; i <= 6; i++) {
        await startEpisode(a, `late${i}`, 900);
        answers.push(ask(a, `late${i}`, { "x-episode-id": `late${i}` }));
        await waits(a, i);
      }
      await startEpisode(b, "early", 60);
      answers.push(ask(b, "early", { "x-episode-id": "early" }));
      await waits(b, 1);
      const begun = await letBegin(8);
      expect(begun).toEqual(["first", "early", "late1", "late2", "late3", "late4", "late5", "late6"]);
      instance.open();
      expect((await Promise.all(answers)).map((r) => r.status)).toEqual(answers.map(() => 200));
    });

    test("tiny timeouts at both routers earn an episode no more turns than the patient ones get", async () => {
      await start(1);
      const answers = [ask(a, "first", {})];
      await eventually("the slot is taken", () => instance.started.length === 1);
      const patient = 4;
      for (let i = 1; i <= 6; i++) {
        for (const router of [a, b]) {
          answers.push(ask(router, "greedy", { "x-episode-id": "greedy", "x-request-timeout": "60" }));
        }
        if (i <= patient) answers.push(ask(a, "p", { "x-episode-id": "p" }), ask(b, "q", { "x-episode-id": "q" }));
      }
      await waits(a, 6 + patient);
      await waits(b, 6 + patient);
      const begun = (await letBegin(1 + 12 + 2 * patient)).slice(1);
      const counts = { greedy: 0, p: 0, q: 0 };
      for (const name of begun) {
        counts[name as keyof typeof counts]++;
        const least = Math.min(counts.p, counts.q);
        if (least < patient) expect(counts.greedy, begun.join(" ")).toBeLessThanOrEqual(least + LEAD + 1);
      }
      instance.open();
      expect((await Promise.all(answers)).map((r) => r.status)).toEqual(answers.map(() => 200));
    });

    test("an episode over both routers is one flow, and the line's bound counts them together", async () => {
      await start(2, { router: { queuePerInstance: 3 } });
      const answers = [ask(a, "e", { "x-episode-id": "e" }), ask(b, "e", { "x-episode-id": "e" })];
      await eventually("the slots are taken", () => instance.started.length === 2);
      answers.push(ask(a, "e", { "x-episode-id": "e" }), ask(a, "f", { "x-episode-id": "f" }));
      await waits(a, 2);
      answers.push(ask(b, "e", { "x-episode-id": "e" }));
      await waits(b, 1);
      const full = await ask(b, "e", { "x-episode-id": "e" });
      expect([full.status, full.headers.get("retry-after")]).toEqual([429, "1"]);
      expect(((await full.json()) as { error: { code: string } }).error.code).toBe("queue_full");
      // e holds both slots, its share and more: f is next.
      instance.open();
      await eventually("f has begun", () => instance.started.includes("f"));
      expect(instance.started).toEqual(["e", "e", "f"]);
      await letBegin(5);
      instance.open();
      instance.open();
      expect((await Promise.all(answers)).map((r) => r.status)).toEqual(answers.map(() => 200));
    });

    test("Retry-After is what was measured, and who comes back then is admitted", async () => {
      const clock = new FakeClock();
      await start(1, { router: { queuePerInstance: 1 } }, clock);
      const takes = async (answer: Promise<Response>, begun: number) => {
        await eventually("it runs", () => instance.started.length === begun);
        clock.advance(7_000);
        instance.open();
        return (await answer).status;
      };
      expect(await takes(ask(a, "measured", {}), 1)).toBe(200);
      const running = ask(a, "running", {});
      await eventually("it runs", () => instance.started.length === 2);
      const waiting = ask(a, "waiting", {});
      await waits(a, 1);
      clock.advance(2_000);
      const refused = await ask(b, "refused", {});
      expect([refused.status, refused.headers.get("retry-after")]).toEqual([429, "5"]);
      clock.advance(5_000);
      instance.open();
      expect((await running).status).toBe(200);
      await waits(a, 0);
      const back = ask(b, "back", {});
      await waits(b, 1);
      expect(await takes(waiting, 3)).toBe(200);
      expect(await takes(back, 4)).toBe(200);
    });

    test("who hangs up, or whose time comes, leaves the line and has cost nothing; nothing of it begins", async () => {
      await start(1);
      const first = ask(a, "first", {});
      await eventually("the slot is taken", () => instance.started.length === 1);
      const leave = new AbortController();
      const gone = ask(b, "gone", { "x-episode-id": "e" }, leave.signal).catch(() => {});
      const late = ask(b, "late", { "x-episode-id": "e", "x-request-timeout": "0.5" });
      await waits(b, 2);
      leave.abort();
      await gone;
      expect((await late).status).toBe(504);
      await waits(b, 0);
      expect(await waitingThere()).toBe(0);
      instance.open();
      expect((await first).status).toBe(200);
      expect(instance.started).toEqual(["first"]);
      await eventually("nothing is reserved", async () => (await episode(b, "e")).tokens_reserved === 0);
      expect((await episode(b, "e")).tokens_used).toBe(0);
    });

    test("a router that is gone leaves nothing in the line", async () => {
      await start(1);
      const first = ask(b, "first", {});
      await eventually("the slot is taken", () => instance.started.length === 1);
      const lost = [1, 2, 3].map(() => ask(a, "lost", { "x-request-timeout": "60" }).catch(() => {}));
      await waits(a, 3);
      const second = ask(b, "second", {});
      await waits(b, 1);
      await a.close();
      await Promise.all(lost);
      await eventually("they have left", async () => (await waitingThere()) === 1);
      await letBegin(2);
      expect(instance.started).toEqual(["first", "second"]);
      instance.open();
      expect([(await first).status, (await second).status]).toEqual([200, 200]);
    });
  },
);
