import { randomBytes } from "node:crypto";
import type { StateStore } from "../../src/core/store.ts";
import type { Clock } from "../../src/lib/clock.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { makeLogger } from "../../src/lib/logger.ts";
import { type Address, ProbedEndpoints } from "../../src/router/probed-endpoints.ts";
import { startRouter } from "../../src/router/server.ts";
import { openRedisStore } from "../../src/store/redis/open.ts";
import { poolPlan } from "../support/pool.ts";
import { serve } from "./child.ts";
import { mutated, mutateScripts, SCRIPT_MUTANTS } from "./mutants.ts";
import { Random } from "./random.ts";

/** What a router's process is told at its start. */
export interface RouterConfig {
  redis: string;
  pool: string;
  spec: object;
  /** Key entries by caller. */
  keys: Record<string, string>;
  token: string;
  addresses: Address[];
  mutant: string | undefined;
  seed: number;
}
/** How far clocks are ahead of this machine's, in milliseconds: the Redis server's, and this router's wall clock. */
export interface Clocks {
  server: number;
  wall: number;
}

/** One router as `llmpool router` puts it together, on clocks that can be stepped, and perhaps with a store that is wrong. */
await serve<RouterConfig, Clocks>(async (config, stack) => {
  const ahead: Clocks = { server: 0, wall: 0 };
  const clock: Clock = { ...systemClock, wall: () => Date.now() + ahead.wall };
  const log = makeLogger("info");
  const time = () => ({ now: Date.now() + ahead.server, wall: Date.now() + ahead.server });
  const { mutant } = config;
  const wrong = mutant === undefined ? undefined : SCRIPT_MUTANTS[mutant];
  if (wrong) mutateScripts(wrong);
  const store = await openRedisStore({
    ...{ url: config.redis, namespace: "history", pool: config.pool, sessionTTLSeconds: 7200 },
    ...{ clock, random: randomBytes, log, time },
  });
  stack.defer(() => store.close());
  const given: StateStore = mutant === undefined || wrong ? store : mutated(store, mutant, new Random(config.seed));
  const source = stack.use(new ProbedEndpoints(clock));
  source.set(config.addresses);
  const keys = Object.entries(config.keys).map(([name, entry]): [string, Buffer] => [name, Buffer.from(entry)]);
  const router = stack.use(
    await startRouter({
      ...{ plan: poolPlan(config.spec), secrets: { keys: Object.fromEntries(keys) }, source, store: given },
      ...{ token: config.token, host: "127.0.0.1", port: 0, clock, log, writeLine: () => {} },
    }),
  );
  return { url: router.url, told: (clocks) => Object.assign(ahead, clocks) };
});
