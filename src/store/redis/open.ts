import type { Clock } from "../../lib/clock.ts";
import type { Logger } from "../../lib/logger.ts";
import type { TlsFiles } from "./connection.ts";
import { EventFeed } from "./event-feed.ts";
import { Journal } from "./journal.ts";
import { KnownBindings } from "./known-bindings.ts";
import { Link } from "./link.ts";
import { QuietDenials } from "./quiet-denials.ts";
import { SpentBudgets } from "./spent-budgets.ts";
import { LATE_TICKS, RedisStore } from "./store.ts";

export interface RedisStoreOptions {
  /** `redis[s]://[[user]:password@]host[:port][/db]`. Never logged. */
  url: string;
  tls?: TlsFiles;
  /** Takes a server that forgets everything in a restart. */
  allowVolatile?: boolean;
  namespace: string;
  pool: string;
  clock: Clock;
  /** That many random bytes, for ids. */
  random: (bytes: number) => Uint8Array;
  log: Logger;
  /** A session that is not used for so long is forgotten. */
  sessionTTLSeconds: number;
  /** For tests: in place of the server's clock, Unix milliseconds. `now` decides, `wall` is shown and opens windows. */
  time?: () => { now: number; wall: number };
  /** For tests that do not wait for long: looks that must find a router late before it is taken for gone. */
  lateTicks?: number;
}

/**
 * Opens the store that the routers of one pool share. Rejects with `store_unavailable`, the cause and the cure: not reachable, not let in,
 * not durable, a replica, too old.
 */
export async function openRedisStore(options: RedisStoreOptions): Promise<RedisStore> {
  const {
    url,
    tls = {},
    allowVolatile = false,
    namespace,
    pool,
    clock,
    random,
    log,
    sessionTTLSeconds,
    time,
  } = options;
  const { lateTicks = LATE_TICKS } = options;
  const ttlMs = sessionTTLSeconds * 1000;
  const router = Buffer.from(random(16)).toString("hex");
  // The braces are a hash tag: all of a pool is in one slot.
  const link = new Link({
    url,
    tls,
    allowVolatile,
    prefix: `{llmpool:${namespace}/${pool}}:`,
    router,
    ttlMs,
    time,
    clock,
  });
  const now = () => time?.().now ?? clock.now();
  const store = new RedisStore({
    ...{ link, journal: new Journal(), feed: new EventFeed(log, router), clock, random, log },
    ...{ known: new KnownBindings(now, ttlMs), spent: new SpentBudgets(now) },
    quiet: new QuietDenials(),
    lateTicks,
  });
  try {
    await store.open();
    return store;
  } catch (error) {
    await store.close();
    throw error;
  }
}
