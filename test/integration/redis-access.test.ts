import { randomBytes, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { inspect } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { openStore } from "../../src/dev/open-store.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { LLMPoolError } from "../../src/lib/errors.ts";
import { makeLogger } from "../../src/lib/logger.ts";
import { openRedisStore, type RedisStoreOptions } from "../../src/store/redis/open.ts";
import type { RedisStore } from "../../src/store/redis/store.ts";
import { eventually } from "../support/eventually.ts";
import { poolPlan } from "../support/pool.ts";
import { hasRedis, REDIS_CURE, RedisServer } from "../support/redis.ts";
import { ask, SETTINGS, usage } from "../support/store-suite.ts";

/** What docs/episodes-and-budgets.md says that a user needs. */
const RULES = ["~{llmpool:*", "+@read", "+@write", "+@scripting", "+@connection", "+info", "+time"];

describe.skipIf(!hasRedis)(hasRedis ? "the way to Redis" : `the way to Redis (${REDIS_CURE})`, () => {
  let stack: AsyncDisposableStack;
  let logged: string;
  beforeEach(() => {
    stack = new AsyncDisposableStack();
    logged = "";
  });
  afterEach(() => stack.disposeAsync());

  const log = makeLogger("debug", (line) => {
    logged += line;
  });
  const open = async (url: string, options: Partial<RedisStoreOptions> = {}): Promise<RedisStore> =>
    stack.use(
      await openRedisStore({
        ...{ url, namespace: "test", pool: randomUUID(), clock: systemClock, random: randomBytes, log },
        ...{ sessionTTLSeconds: 7200, ...options },
      }),
    );
  /** Everything that a router does, once. */
  async function use(store: RedisStore): Promise<void> {
    const session = { tenant: "t", key: "s", id: "s", role: "coder", instance: "0" };
    const request = ask({ session, episode: { id: "e", settings: { ...SETTINGS, budgetTokens: 150 } } });
    expect(await store.admit(request)).toMatchObject({ ok: true });
    expect(await store.admit(ask({ episode: { id: "e", settings: SETTINGS } }))).toMatchObject({ ok: false });
    await store.rebind(request.requestId, { instance: "1" }, session);
    await store.settle(request.requestId, usage(10, 10));
    await store.progress("t", "e", "patch");
    await store.endEpisode("t", "e", "finished");
    expect((await store.audit("t", "e", 0)).length).toBeGreaterThan(4);
    expect(await store.bindings("t")).toHaveLength(1);
    await store.poll();
    expect(await store.dropBinding("t", "s")).toBe(true);
  }

  test("over TLS, with an authority and a certificate of the Secret; not without", async () => {
    const { url, certs } = await RedisServer.startTls(stack);
    const file = (name: string) => readFileSync(certs.file(name));
    const plan = poolPlan({ store: { redisSecretRef: { name: "redis", key: "url" } } });
    const openWith = async (secret: Record<string, Buffer>) =>
      await openStore(plan, { redis: { url: Buffer.from(`${url}\n`), ...secret } }, "", systemClock, log);
    const all = { "ca.crt": file("ca.crt"), "tls.crt": file("user.crt"), "tls.key": file("user.key") };
    const store = stack.use((await openWith(all)) as RedisStore);
    await use(store);
    const { "ca.crt": _ca, ...noAuthority } = all;
    await expect(openWith(noAuthority)).rejects.toMatchObject({ code: "store_unavailable" });
    await expect(openWith({ "ca.crt": all["ca.crt"] })).rejects.toMatchObject({ code: "store_unavailable" });
    await expect(open(url.replace("rediss", "redis"))).rejects.toMatchObject({ code: "store_unavailable" });
  });

  test("a volatile server is refused, unless the Secret allows it", async () => {
    const { url } = stack.use(await RedisServer.start("--appendonly", "no"));
    const plan = poolPlan({ store: { redisSecretRef: { name: "redis", key: "url" } } });
    const openWith = async (secret: Record<string, string>) => {
      const entries = Object.entries({ url, ...secret }).map(([name, text]) => [name, Buffer.from(text)]);
      return await openStore(plan, { redis: Object.fromEntries(entries) }, "", systemClock, log);
    };
    for (const secret of [{}, { "allow-volatile": "false" }]) {
      await expect(openWith(secret)).rejects.toThrow("`allow-volatile: true` in the Secret");
    }
    await use(stack.use((await openWith({ "allow-volatile": "true\n" })) as RedisStore));
  });

  test("with a user that may touch the pools' keys alone", async () => {
    const server = stack.use(await RedisServer.start());
    server.cli("acl", "setuser", "llmpool", "on", ">s3cret", ...RULES);
    server.cli("acl", "setuser", "default", "off");
    await use(await open(`redis://llmpool:s3cret@127.0.0.1:${server.port}`));
    await expect(open(server.url)).rejects.toThrow("NOAUTH");
  });

  test("the URL, its user and its password are in no log line and no error, whatever goes wrong", async () => {
    const server = stack.use(await RedisServer.start("--requirepass", "s3cret"));
    const errors: unknown[] = [];
    const failing = async (url: string) => {
      const error = await open(url).catch((error: unknown) => error);
      expect(error).toBeInstanceOf(LLMPoolError);
      errors.push(error);
    };
    const at = `127.0.0.1:${server.port}`;
    await failing(`redis://who:wr0ng@${at}`);
    await failing(`redis://:wr0ng@${at}`);
    await failing(`rediss://:s3cret@${at}`);
    await failing(`redis://:s3cret@nowhere.invalid:${server.port}`);
    await failing(`redis://:s3cret@${at}/99`);
    for (const bad of [`http://:s3cret@${at}`, `redis://:s3cret@${at}:x`, "s3cret", ":s3cret@", "redis://:s3c%ret@h"]) {
      await failing(bad);
    }
    const store = await open(`redis://:s3cret@${at}`);
    await server.end("SIGKILL");
    errors.push(await store.admit(ask()).catch((error: unknown) => error));
    await eventually("it is told", () => logged.includes("the store is away"));
    await server.start();
    await eventually("it is told", () => logged.includes("the store is back"));
    for (const text of [logged, ...errors.map((error) => inspect(error, { depth: 9, showHidden: true }))]) {
      expect(text).not.toMatch(/s3cret|wr0ng|who|redis:\/\/[^[]/);
    }
  });
});
