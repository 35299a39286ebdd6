import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { silentLogger } from "../../src/lib/logger.ts";
import { type Router, startRouter } from "../../src/router/server.ts";
import { openEmbeddedStore } from "../../src/store/embedded/open.ts";
import { eventually } from "../support/eventually.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { FakeInstance, FakeSource } from "../support/fake-instance.ts";
import { poolPlan } from "../support/pool.ts";
import { malformedRequests, RawConnection } from "../support/raw-http.ts";

const BODY = '{"messages":[{"role":"user","content":"hi"}]}';
const SMUGGLED = `POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`;

let router: Router;
let instance: FakeInstance;
const closers: (() => Promise<void>)[] = [];

beforeAll(async () => {
  const clock = new FakeClock();
  instance = await FakeInstance.start("0");
  const store = openEmbeddedStore({
    home: { ephemeral: true },
    clock,
    bootClock: { bootId: "boot", now: clock.now },
    random: randomBytes,
    log: silentLogger,
    sessionTTLSeconds: 7200,
  });
  router = await startRouter({
    plan: poolPlan({ instances: 1 }),
    secrets: {},
    source: new FakeSource([instance.endpoint()]),
    store,
    token: "t",
    host: "127.0.0.1",
    port: 0,
    clock,
    log: silentLogger,
    writeLine: () => {},
    limits: { headersMs: 400, requestMs: 800, checkMs: 50 },
  });
  closers.push(
    () => router.close(),
    () => store.close(),
    () => instance.close(),
  );
});

afterAll(async () => {
  for (const close of closers) await close();
});

describe("what no HTTP client sends", () => {
  test.each(malformedRequests("/v1/chat/completions", "Bearer x", SMUGGLED))(
    "$name: refused, closed, and no instance hears of it",
    async ({ bytes }) => {
      const before = instance.received.length;
      using connection = await RawConnection.open(router.url);
      connection.send(bytes);
      await connection.closed;
      expect(connection.statuses.filter((status) => status < 400)).toEqual([]);
      expect(connection.statuses.length).toBeLessThanOrEqual(1);
      expect(instance.received.length).toBe(before);
    },
  );

  test("a well-formed request on the same kind of connection is served", async () => {
    using connection = await RawConnection.open(router.url);
    connection.send(SMUGGLED);
    await eventually("an answer", () => connection.statuses.length === 1);
    expect(connection.statuses).toEqual([200]);
  });

  test("two requests at once on one connection are both served, in order", async () => {
    using connection = await RawConnection.open(router.url);
    connection.send(SMUGGLED + SMUGGLED);
    await eventually("two answers", () => connection.statuses.length === 2);
    expect(connection.statuses).toEqual([200, 200]);
  });
});

describe("callers that take their time", () => {
  test.each([
    ["headers", "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Slow: ", "a"],
    ["a body", `POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: ${BODY.length}\r\n\r\n`, " "],
  ])("%s a byte at a time: the connection is closed, and no instance hears of it", async (_name, start, byte) => {
    const before = instance.received.length;
    using connection = await RawConnection.open(router.url);
    connection.send(start);
    const dripping = setInterval(() => connection.send(byte), 100);
    await connection.closed.finally(() => clearInterval(dripping));
    expect(connection.statuses.filter((status) => status < 400)).toEqual([]);
    expect(instance.received.length).toBe(before);
  });
});

describe("callers that vanish", () => {
  test.each([
    ["in the middle of the headers", "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-"],
    [
      "in the middle of the body",
      `POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY.slice(0, 9)}`,
    ],
  ])("%s: nothing is left of them", async (_name, bytes) => {
    const before = instance.received.length;
    const connection = await RawConnection.open(router.url);
    connection.send(bytes);
    connection.socket.destroy();
    await connection.closed;
    // The router is well: the next caller is served.
    const next = await fetch(`${router.url}/v1/chat/completions`, { method: "POST", body: BODY });
    expect(next.status).toBe(200);
    expect(instance.received.length).toBe(before + 1);
  });
});
