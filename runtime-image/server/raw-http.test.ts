import { expect, test } from "vitest";
import { eventually } from "../../test/support/eventually.ts";
import { AUTHORIZATION, instanceServer } from "../../test/support/instance-server.ts";
import { malformedRequests, RawConnection } from "../../test/support/raw-http.ts";

const BODY = JSON.stringify({ messages: [{ role: "user", content: "hello" }] });
const PATH = "/v1/chat/completions";
const HEAD = `POST ${PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: ${AUTHORIZATION}\r\n`;
const WHOLE = `${HEAD}Content-Length: ${BODY.length}\r\n\r\n${BODY}`;

test.each(malformedRequests(PATH, AUTHORIZATION, WHOLE))(
  "refuses $name, closes, and runs nothing",
  async ({ bytes }) => {
    const { url, generated } = await instanceServer();
    using connection = await RawConnection.open(url);
    connection.send(bytes);
    await connection.closed;
    expect(connection.statuses.length).toBeLessThanOrEqual(1);
    expect(connection.statuses[0] ?? 400).toBeGreaterThanOrEqual(400);
    expect(connection.statuses[0] ?? 400).toBeLessThanOrEqual(431);
    expect(generated).toEqual([]);
  },
);

test("well-formed oddities are one request: chunk extensions, trailers, continue, a body of a GET", async () => {
  const { url, generated } = await instanceServer();
  const chunked = `${BODY.length.toString(16)};name=value\r\n${BODY}\r\n0\r\nX-Trailer: a\r\n\r\n`;
  for (const bytes of [
    `${HEAD}Transfer-Encoding: chunked\r\n\r\n${chunked}`,
    `${HEAD}Expect: 100-continue\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`,
  ]) {
    using connection = await RawConnection.open(url);
    connection.send(bytes);
    await eventually("it is answered", () => connection.statuses.length > 0);
    expect(connection.statuses).toEqual([200]);
  }
  expect(generated).toHaveLength(2);
  using probe = await RawConnection.open(url);
  probe.send(
    `GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: ${WHOLE.length}\r\n\r\n${WHOLE}GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n`,
  );
  await eventually("both probes are answered", () => probe.statuses.length === 2);
  expect(probe.statuses).toEqual([200, 200]);
  expect(generated).toHaveLength(2);
});

test("pipelined requests are answered in their order", async () => {
  const { url } = await instanceServer();
  using connection = await RawConnection.open(url);
  connection.send(`${WHOLE}GET /none HTTP/1.1\r\nHost: x\r\nAuthorization: ${AUTHORIZATION}\r\n\r\n${WHOLE}`);
  await eventually("all are answered", () => connection.statuses.length === 3);
  expect(connection.statuses).toEqual([200, 404, 200]);
});

test("headers that come a byte at a time, or not at all, are cut off", async () => {
  const { url, generated } = await instanceServer({ headersMs: 200 });
  using slow = await RawConnection.open(url);
  using silent = await RawConnection.open(url);
  slow.send("POST ");
  const drip = setInterval(() => slow.send("x"), 20);
  await Promise.all([slow.closed, silent.closed]);
  clearInterval(drip);
  expect(slow.statuses).toEqual([408]);
  expect(generated).toEqual([]);
});

test("a body that comes too slowly is refused, and its connection ends", async () => {
  const { url, generated } = await instanceServer({ bodyMs: 200, discardMs: 200 });
  using connection = await RawConnection.open(url);
  connection.send(`${HEAD}Content-Length: ${BODY.length}\r\n\r\n`);
  const drip = setInterval(() => connection.send(" "), 50);
  await eventually("it is refused", () => connection.statuses.length > 0);
  clearInterval(drip);
  expect(connection.statuses).toEqual([504]);
  await connection.closed;
  expect(generated).toEqual([]);
});

test("a body beyond the limit is 413, announced or not", async () => {
  const { url, generated } = await instanceServer({ bodyBytes: 1000 });
  using announced = await RawConnection.open(url);
  announced.send(`${HEAD}Content-Length: 1001\r\n\r\n`);
  await eventually("it is refused", () => announced.statuses.length > 0);
  expect(announced.statuses).toEqual([413]);
  using chunked = await RawConnection.open(url);
  chunked.send(`${HEAD}Transfer-Encoding: chunked\r\n\r\n`);
  for (let i = 0; i < 11; i++) chunked.send(`64\r\n${" ".repeat(100)}\r\n`);
  await eventually("it is refused", () => chunked.statuses.length > 0);
  expect(chunked.statuses).toEqual([413]);
  expect(generated).toEqual([]);
});

test("a caller without the token may send what it likes: it is answered, and cut off when it goes on", async () => {
  const { url, generated } = await instanceServer({ discardMs: 200 });
  using connection = await RawConnection.open(url);
  connection.send("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{");
  await eventually("it is refused", () => connection.statuses.length > 0);
  expect(connection.statuses).toEqual([401]);
  await connection.closed;
  expect(generated).toEqual([]);
});

test("a client that reads nothing holds its generation still, and is cut off", async () => {
  const { url, client, server } = await instanceServer({ writeIdleMs: 300 });
  using connection = await RawConnection.open(url);
  connection.socket.pause();
  const body = JSON.stringify({ prompt: "!stub replyTokens=2000000\nx", stream: true });
  connection.send(
    `POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: ${AUTHORIZATION}\r\nx-request-id: slow\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
  const record = await eventually("it is cut off", async () => {
    const found = await client.fetch("/internal/requests/slow");
    const json = (await found.json()) as { done?: boolean; completion_tokens: number };
    return json.done === true && json;
  });
  // Buffers take some thousands of tokens; without back-pressure all two million would have been made.
  expect(record.completion_tokens).toBeLessThan(1_000_000);
  await server.idle();
  connection.socket.resume();
  await connection.closed;
});
