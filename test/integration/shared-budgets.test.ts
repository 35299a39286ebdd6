import { afterEach, describe, expect, test } from "vitest";
import { chunk, startStream } from "../support/fake-instance.ts";
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
});
