import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { FakeInstance } from "../support/fake-instance.ts";
import { malformedRequests, RawConnection, wholeRequest } from "../support/raw-http.ts";
import { startRawRouter } from "../support/raw-router.ts";

const BODY = '{"messages":[{"role":"user","content":"hi"}]}';
const SMUGGLED = wholeRequest("/v1/chat/completions", BODY);

let router: { url: string };
let instance: FakeInstance;
const open = new AsyncDisposableStack();

beforeAll(async () => {
  instance = open.use(await FakeInstance.start("0"));
  router = open.use(await startRawRouter(instance.endpoint()));
});
afterAll(() => open.disposeAsync());

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

test("headers that do not fit are 431, and nothing to send again", async () => {
  using connection = await RawConnection.open(router.url);
  connection.send(`GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Long: ${"a".repeat(17 * 1024)}\r\n\r\n`);
  await connection.closed;
  expect(connection.received).toMatch(/^HTTP\/1\.1 431 Request Header Fields Too Large\r\nx-should-retry: false\r\n/);
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
