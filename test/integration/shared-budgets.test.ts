import { afterEach, describe, expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { answerHello, chunk, startStream } from "../support/fake-instance.ts";
import { type Front, Fronts, type FrontsOptions } from "../support/fronts.ts";
import { hasRedis, REDIS_CURE } from "../support/redis.ts";

describe.skipIf(!hasRedis)(hasRedis ? "budgets of several routers" : `budgets over Redis (${REDIS_CURE})`, () => {
  let pool: Fronts;
  afterEach(() => pool[Symbol.asyncDispose]());

  async function start(options: FrontsOptions): Promise<[Front, Front, ...Front[]]> {
    pool = await Fronts.start(options);
    return pool.fronts as [Front, Front, ...Front[]];
  }
  const rateLimit = ({ headers }: Response) =>
    ["limit", "remaining", "reset"].map((what) => headers.get(`x-ratelimit-${what}-tokens`));

  test("with clamp a request gets what all routers together have left; then both deny, and show the same", async () => {
    const [a, b] = await start({ instances: 1, spec: { budgets: { episodeTokens: 60 } } });
    const [instance] = pool.instances;
    if (!instance) throw new Error("no instance");
    instance.behave = (_call, res) => {
      startStream(res);
      res.write(chunk("hel"));
    };
    const episode = { "x-episode-id": "e" };
    const clamp = { ...episode, "x-llmpool-budget": "clamp" };
    const open = [await a.chat({ stream: true }, episode), await b.chat({ stream: true, max_tokens: 500 }, clamp)];
    expect(open.map((r) => [r.status, ...rateLimit(r)])).toEqual([
      [200, "60", "36", null],
      [200, "60", "0", null],
    ]);
    expect(instance.received.map((call) => call.headers["x-llmpool-max-total-tokens"])).toEqual(["24", "36"]);
    for (const front of [a, b]) {
      const denied = await front.chat({}, clamp);
      expect([denied.status, ...rateLimit(denied), denied.headers.get("x-should-retry")]).toEqual([
        ...[429, "60", "0", null, "false"],
      ]);
    }
    expect(instance.received).toHaveLength(2);
    for (const stream of open) await stream.body?.cancel();
  });

  test("200 calls at once at three routers on a budget that fits 10: ten reach an instance, the others are denied before", async () => {
    const spec = { sessionsPerInstance: 16, router: { queuePerInstance: 256 }, budgets: { episodeTokens: 240 } };
    const fronts = await start({ routers: 3, instances: 1, spec });
    const [instance] = pool.instances;
    const { promise: go, resolve } = Promise.withResolvers<void>();
    if (instance) {
      instance.behave = async (call, res) => {
        await go;
        await answerHello(call, res);
      };
    }
    const calls = Array.from({ length: 200 }, (_, i) => fronts[i % 3]?.chat({}, { "x-episode-id": "e" }));
    let denied = 0;
    for (const call of calls) void call?.then((r) => (denied += r.status === 429 ? 1 : 0));
    await eventually("all others are denied", () => denied === 190);
    expect(await fronts[1].episode("e")).toMatchObject({ tokens_used: 0, tokens_reserved: 240 });
    expect(instance?.received).toHaveLength(10);
    resolve();
    const statuses = (await Promise.all(calls)).map((r) => r?.status);
    expect(statuses.filter((status) => status === 200)).toHaveLength(10);
    const after = await eventually("all are settled", async () => {
      const episode = await fronts[1].episode("e");
      return episode.tokens_reserved === 0 && episode;
    });
    expect(after.tokens_used).toBe(100);
    expect(instance?.received).toHaveLength(10);
    await fronts[0].store.poll();
    const journal = await fronts[0].store.audit("", "e", 0);
    const of = (kind: string) => journal.filter((entry) => entry.kind === kind);
    expect([of("admit").length, of("settle").length]).toEqual([10, 10]);
    expect(of("deny").reduce((sum, { data }) => sum + Number(data.count), 0)).toBe(190);
  });

  test("while Redis is away nothing is admitted from memory, what runs goes on, and what it used is brought when it is back", async () => {
    const [a, b] = await start({ instances: 1, spec: { budgets: { episodeTokens: 500 } } });
    const [instance] = pool.instances;
    const { promise: go, resolve } = Promise.withResolvers<void>();
    if (instance) {
      instance.behave = async (_call, res) => {
        startStream(res);
        res.write(chunk("hel"));
        await go;
        res.end(
          `${chunk("lo", "stop")}: usage {"prompt_tokens":4,"completion_tokens":2,"cached_tokens":0}\n\ndata: [DONE]\n\n`,
        );
      };
    }
    const episode = { "x-episode-id": "e" };
    const open = [await a.chat({ stream: true }, episode), await b.chat({ stream: true }, episode)];
    await pool.server.end("SIGKILL");
    for (const front of [a, b, a]) {
      const refused = await front.chat({}, episode);
      expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "1"]);
      expect(await refused.json()).toMatchObject({ error: { code: "store_unavailable" } });
    }
    resolve();
    for (const stream of open) expect(await stream.text()).toMatch(/data: \[DONE\]\n\n$/);
    expect(instance?.received).toHaveLength(2);
    await pool.server.start();
    const after = await eventually("what was used is there", async () => {
      const found = await b.episode("e");
      return found.tokens_reserved === 0 && found;
    });
    expect(after.tokens_used).toBe(12);
    // Either may have been back first, and have settled what the other held.
    for (const front of [a, b]) {
      await eventually("it admits again", async () => (await front.chat({ max_tokens: 1 }, episode)).status === 200);
    }
  });
});
