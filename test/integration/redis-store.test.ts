import { afterAll, beforeAll, describe } from "vitest";
import { hasRedis, REDIS_CURE, RedisServer } from "../support/redis.ts";
import { RedisHome } from "../support/redis-home.ts";
import { storeSuite } from "../support/store-suite.ts";

describe.skipIf(!hasRedis)(hasRedis ? "over Redis" : `over Redis (${REDIS_CURE})`, () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await RedisServer.start();
    // No script touches a key without the hash tag of a pool: in a cluster, each pool is in one slot.
    server.cli("acl", "setuser", "default", "resetkeys", "~{llmpool:test/*}:*");
  });
  afterAll(() => server[Symbol.asyncDispose]());

  storeSuite("redis store", async () => new RedisHome(server.url));
});
