import { randomBytes, randomUUID } from "node:crypto";
import { systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { openRedisStore } from "../../src/store/redis/open.ts";
import type { RedisStore } from "../../src/store/redis/store.ts";
import type { StoreHome } from "./store-suite.ts";

/** A pool of its own on a Redis server. The store's time is this home's; each `open` is another router. */
export class RedisHome implements StoreHome {
  readonly #url: string;
  readonly #pool = randomUUID();
  readonly #open = new Set<RedisStore>();
  #now = Date.UTC(2026, 0, 1);
  #wallAhead = 0;

  constructor(url: string) {
    this.#url = url;
  }

  async open(): Promise<RedisStore> {
    const store = await openRedisStore({
      url: this.#url,
      namespace: "test",
      pool: this.#pool,
      clock: systemClock,
      random: randomBytes,
      log: silentLogger,
      sessionTTLSeconds: 7200,
      time: () => ({ now: this.#now, wall: this.wall() }),
    });
    this.#open.add(store);
    return store;
  }

  async advance(ms: number): Promise<void> {
    this.#now += ms;
    for (const store of this.#open) await store.poll();
  }

  stepWall(ms: number): void {
    this.#wallAhead += ms;
  }

  wall(): number {
    return this.#now + this.#wallAhead;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const store of this.#open) await store.close();
  }
}
