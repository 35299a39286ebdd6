import { expect, test } from "vitest";
import { errorOf } from "../../test/conformance/client.ts";
import { eventually } from "../../test/support/eventually.ts";
import { AUTHORIZATION, instanceServer } from "../../test/support/instance-server.ts";
import { RawConnection } from "../../test/support/raw-http.ts";

const says = (content: string) => JSON.stringify({ messages: [{ role: "user", content }] });
const STALL = says("!stub stall");

function post(body: string, headers: Record<string, string> = {}): string {
  const all = { host: "x", authorization: AUTHORIZATION, "content-length": String(body.length), ...headers };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return `POST /v1/chat/completions HTTP/1.1\r\n${lines.join("")}\r\n${body}`;
}

const send = (url: string, headers: Record<string, string>) =>
  fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: AUTHORIZATION, ...headers },
    body: says("hello"),
  });

/** What came before the answer itself: the places in the line. */
const places = ({ received }: RawConnection) =>
  [...received.matchAll(/HTTP\/1\.1 102 Processing\r\nx-llmpool-position: (\d+)\r\n\r\n/gi)].map(([, place]) => place);

test("a router's request hears its place while it waits, and 0 before it begins; another's hears nothing", async () => {
  const { url, generated } = await instanceServer({ positionMs: 20 }, 1);
  const busy = await RawConnection.open(url);
  busy.send(post(STALL));
  await eventually("it runs", () => generated.length === 1);
  using plain = await RawConnection.open(url);
  plain.send(post(says("hello")));
  using router = await RawConnection.open(url);
  router.send(post(says("hello"), { "x-llmpool-flow": "t/e" }));
  await eventually("it has heard its place twice", () => places(router).length >= 2);
  busy[Symbol.dispose]();
  await eventually("both are answered", () => plain.statuses.length + router.statuses.length === 2);
  expect([plain.statuses, router.statuses]).toEqual([[200], [200]]);
  expect(places(plain)).toEqual([]);
  expect(places(router).at(-1)).toBe("0");
  expect(places(router)[0]).toMatch(/^[12]$/);
  expect(router.received.lastIndexOf("102 Processing")).toBeLessThan(router.received.indexOf("200 OK"));
});

test("a request that does not wait hears no place", async () => {
  const { url } = await instanceServer();
  using router = await RawConnection.open(url);
  router.send(post(says("hello"), { "x-llmpool-flow": "t/e" }));
  await eventually("it is answered", () => router.statuses.length === 1);
  expect(places(router)).toEqual([]);
});

test("it is not started after the end of its episode, and says that this was the limit", async () => {
  const { client, url, generated } = await instanceServer({}, 1);
  const leave = new AbortController();
  const running = client.post("/v1/chat/completions", STALL, { signal: leave.signal }).catch(String);
  await eventually("one runs", () => generated.length === 1);
  const headers = { "x-llmpool-flow": "t/e", "x-llmpool-episode-ms": "50", "x-llmpool-timeout-ms": "60000" };
  const late = await send(url, headers);
  expect(await errorOf(late)).toMatchObject({
    status: 504,
    code: "episode_deadline_exceeded",
    usage: { total_tokens: 0 },
  });
  leave.abort();
  await running;
  expect(generated).toHaveLength(1);
});

test("what orders a request must be well-formed", async () => {
  const { url } = await instanceServer();
  const malformed: Record<string, string>[] = [
    { "x-llmpool-flow": "a b" },
    { "x-llmpool-episode-ms": "-1" },
    { "x-llmpool-waited-ms": "1.5" },
    { "x-llmpool-queue-limit": "many" },
  ];
  for (const headers of malformed) {
    expect(await errorOf(await send(url, headers))).toMatchObject({ status: 400, param: Object.keys(headers)[0] });
  }
});
