import { randomBytes, randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import { silentLogger } from "../../src/lib/logger.ts";
import { openRedisStore } from "../../src/store/redis/open.ts";
import { eventually } from "../support/eventually.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { hasRedis, REDIS_CURE, RedisServer } from "../support/redis.ts";

const SETTINGS = {
  timeoutSeconds: 1,
  progressExtendSeconds: 0,
  maxTimeoutSeconds: 1,
  idleTimeoutSeconds: 0,
  retainSeconds: 60,
  budgetTokens: 0,
};

test.skipIf(!hasRedis)(
  hasRedis ? "a deadline is acted on when it comes, not at the next regular look" : `deadlines (${REDIS_CURE})`,
  async () => {
    await using server = await RedisServer.start();
    const clock = new FakeClock();
    await using store = await openRedisStore({
      ...{ url: server.url, namespace: "test", pool: randomUUID(), sessionTTLSeconds: 7200 },
      ...{ clock, random: randomBytes, log: silentLogger, time: () => ({ now: clock.now(), wall: clock.wall() }) },
    });
    const ended: number[] = [];
    store.onEpisodeEvent((_, { kind }) => {
      if (kind === "ended") ended.push(clock.now());
    });
    const pass = async (ms: number) => {
      for (let i = 0; i < ms; i += 10) {
        clock.advance(10);
        await store.poll();
      }
    };
    // Regular looks are 200 ms apart, from 0 on: the deadline comes well between two of them.
    await pass(120);
    await store.startEpisode("", { id: "e", settings: SETTINGS });
    await pass(980);
    expect(ended).toEqual([]);
    await eventually("the end is told at its instant", () => {
      if (clock.now() < 1_120) clock.advance(1);
      return ended.length === 1;
    });
    expect(ended).toEqual([1_120]);
  },
);
