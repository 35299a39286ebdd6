import { describe, expect, test } from "vitest";
import { hasRedis, REDIS_CURE } from "../support/redis.ts";
import { usage } from "../support/store-suite.ts";
import { check } from "./checker.ts";
import { type Mutate, runHistory } from "./run.ts";

/** Some minutes: not a suite of `npm test`. `LLMPOOL_SEED=7` runs one history alone. */
const given = process.env.LLMPOOL_SEED;
const seeds = given === undefined ? Array.from({ length: 20 }, (_, i) => i + 1) : [Number(given)];

/** A store that does all but some calls as it should. */
function instead(change: Partial<ReturnType<Mutate>>, store: ReturnType<Mutate>): ReturnType<Mutate> {
  return new Proxy(store, {
    get(target, name) {
      const own = change[name as keyof typeof change] ?? Reflect.get(target, name);
      return typeof own === "function" ? own.bind(target) : own;
    },
  });
}

const MUTANTS: Record<string, Mutate> = {
  "settle skipped": (store, random) =>
    instead({ settle: async (id, used) => (random() < 0.1 ? undefined : store.settle(id, used)) }, store),
  "settled twice": (store, random) =>
    instead(
      {
        async settle(id, used) {
          await store.settle(id, used);
          if (used === null || random() < 0.8) return;
          const again = {
            requestId: `${id}-again`,
            tenant: "t",
            instance: "0",
            worstCase: 1,
            minimum: 1,
            clamp: false,
          };
          await store.admit({ ...again, claims: [{ scope: "pool", id: "pool", limit: 1e9 }] });
          await store.settle(again.requestId, usage(used.promptTokens));
        },
      },
      store,
    ),
  "reserved late": (store) =>
    instead(
      {
        async admit(request) {
          const admission = await store.admit({ ...request, worstCase: 1, minimum: 1 });
          return admission.ok ? { ...admission, reserved: request.worstCase } : admission;
        },
      },
      store,
    ),
};

describe.skipIf(!hasRedis)(hasRedis ? "histories of three routers" : `histories (${REDIS_CURE})`, () => {
  test.each(seeds)(
    "seed %i: no limit is passed, and every request is settled once, by the runtime's count",
    async (seed) => {
      const history = await runHistory(seed);
      expect(history.used.size).toBeGreaterThan(0);
      expect(check(history)).toEqual([]);
    },
  );

  test.skipIf(given !== undefined).each(Object.entries(MUTANTS))("the checker finds: %s", async (_, mutate) => {
    expect(check(await runHistory(99, mutate))).not.toEqual([]);
  });
});
