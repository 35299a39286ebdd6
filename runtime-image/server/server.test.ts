import { expect, test } from "vitest";
import { errorOf, readStream } from "../../test/conformance/client.ts";
import { eventually } from "../../test/support/eventually.ts";
import { AUTHORIZATION, instanceServer } from "../../test/support/instance-server.ts";
import { RawConnection } from "../../test/support/raw-http.ts";

const hello = { messages: [{ role: "user", content: "hello" }] };
const says = (content: string) => ({ messages: [{ role: "user", content }] });

test("beyond slots and queue a request is refused at once, and the others are answered", async () => {
  const { client, server, generated } = await instanceServer({ waiting: 1 }, 1);
  const hangUp = new AbortController();
  const running = client.post("/v1/chat/completions", says("!stub stall"), { signal: hangUp.signal }).catch(String);
  await eventually("it runs", () => generated.length === 1);
  const waiting = client.post("/v1/chat/completions", hello);
  await eventually("one waits", async () =>
    (await server.metrics.metrics.expose()).includes("llmpool_instance_requests_waiting 1"),
  );
  const refused = await client.post("/v1/chat/completions", hello);
  expect(await errorOf(refused)).toMatchObject({ status: 429, code: "queue_full", usage: { total_tokens: 0 } });
  expect(refused.headers.get("retry-after")).toBe("1");
  hangUp.abort();
  await running;
  expect((await waiting).status).toBe(200);
});

test("a client that leaves the queue is forgotten", async () => {
  const { client, generated, server } = await instanceServer({}, 1);
  const hangUp = new AbortController();
  const call = (text: string) =>
    client.post("/v1/chat/completions", says(text), { signal: hangUp.signal }).catch(String);
  // One after another: whichever came first would run.
  const calls = [call("!stub stall")];
  await eventually("one runs", () => generated.length === 1);
  calls.push(call("hello"), call("hello"));
  await eventually("two wait", async () =>
    (await server.metrics.metrics.expose()).includes("llmpool_instance_requests_waiting 2"),
  );
  hangUp.abort();
  await Promise.all(calls);
  await server.idle();
  expect(generated).toHaveLength(1);
});

test("what the backend throws stays inside; the caller learns that it failed and what it used", async () => {
  const { client } = await instanceServer();
  const early = await errorOf(await client.post("/v1/chat/completions", says("!stub fail")));
  expect(early).toMatchObject({
    status: 500,
    code: "internal_error",
    message: "internal error",
    usage: { total_tokens: 0 },
  });
  const late = await errorOf(await client.post("/v1/chat/completions", says("!stub break=3")));
  expect(late).toMatchObject({ status: 500, code: "internal_error", usage: { completion_tokens: 3 } });
  const stream = await client.stream("/v1/chat/completions", says("!stub break=3"));
  expect(stream).toMatchObject({ error: { code: "internal_error" }, record: { done: true, completion_tokens: 3 } });
  expect(stream.kinds.slice(-2)).toEqual(["usage", "error"]);
});

test("closing ends streams with an error, refuses new requests and leaves no connection", async () => {
  const { client, server, url } = await instanceServer();
  const stream = client.stream("/v1/chat/completions", says("!stub stall=2"));
  using raw = await RawConnection.open(url);
  await eventually("it runs", async () => {
    const metrics = await server.metrics.metrics.expose();
    return (
      metrics.includes("llmpool_instance_completion_tokens_total 0") &&
      metrics.includes("llmpool_instance_requests_running 1")
    );
  });
  const closing = server.close();
  expect(await stream).toMatchObject({
    error: { code: "instance_unavailable" },
    record: { done: true, completion_tokens: 2 },
  });
  await Promise.all([closing, raw.closed]);
  await expect(client.post("/v1/chat/completions", hello)).rejects.toThrow();
});

test("a drain waits for those who run and wait, and tells connections to close", async () => {
  const { client, server, generated } = await instanceServer({}, 1);
  const slow = "!stub interTokenMs=100 replyTokens=20\nhello";
  const calls = [client.post("/v1/chat/completions", says(slow))];
  await eventually("one runs", () => generated.length === 1);
  calls.push(client.post("/v1/chat/completions", hello));
  await eventually("one waits", async () =>
    (await server.metrics.metrics.expose()).includes("llmpool_instance_requests_waiting 1"),
  );
  const drained = await client.post("/internal/drain", "");
  expect(await drained.json()).toEqual({ state: "Draining", running: 1, waiting: 1 });
  const refused = await client.post("/v1/chat/completions", hello);
  expect(refused.headers.get("connection")).toBe("close");
  expect(refused.status).toBe(503);
  for (const call of calls) expect((await call).status).toBe(200);
  await server.idle();
});

test("sessions can be moved while draining", async () => {
  const { client } = await instanceServer();
  await client.chat(hello, { session: "s" });
  await client.post("/internal/drain", "");
  expect((await client.post("/internal/sessions/s/export", "")).status).toBe(200);
});

test("an import that breaks off, or stalls, leaves nothing", async () => {
  const { client, url } = await instanceServer({ bodyMs: 200 });
  await client.chat(hello, { session: "s" });
  const bytes = Buffer.from(await (await client.post("/internal/sessions/s/export", "")).arrayBuffer());
  const head = `POST /internal/sessions/t/import HTTP/1.1\r\nHost: x\r\nAuthorization: ${AUTHORIZATION}\r\nContent-Length: ${bytes.length}\r\n\r\n`;
  const cut = await RawConnection.open(url);
  cut.send(head);
  cut.send(bytes.subarray(0, 10));
  cut.socket.end();
  using stalled = await RawConnection.open(url);
  stalled.send(head);
  stalled.send(bytes.subarray(0, 10));
  await Promise.all([cut.closed, stalled.closed]);
  expect((await client.post("/internal/sessions/t/export", "")).status).toBe(404);
  const whole = await client.fetch("/internal/sessions/t/import", { method: "POST", body: new Uint8Array(bytes) });
  expect(whole.status).toBe(200);
});

test("a session's key may hold any visible sign; what is not a key is refused", async () => {
  const { client } = await instanceServer();
  const session = "tenant/role:id%?&=é".replace("é", "~");
  await client.chat(hello, { session });
  expect((await client.fetch(`/internal/sessions/${encodeURIComponent(session)}`, { method: "DELETE" })).status).toBe(
    200,
  );
  for (const bad of ["%zz", "%00", "a%20b", "x".repeat(600)]) {
    const response = await client.fetch(`/internal/sessions/${bad}`, { method: "DELETE" });
    expect(await errorOf(response)).toMatchObject({ status: 400, code: "invalid_request" });
  }
});

test("tokens are metered: first token, gaps, totals, how requests ended", async () => {
  const { client, server } = await instanceServer();
  await client.chat({ ...hello, max_tokens: 4 });
  await client.post("/v1/chat/completions", "nonsense");
  const text = await server.metrics.metrics.expose();
  for (const line of [
    'llmpool_instance_requests_total{code="ok"} 1',
    'llmpool_instance_requests_total{code="invalid_request"} 1',
    "llmpool_instance_time_to_first_token_seconds_count 1",
    "llmpool_instance_inter_token_seconds_count 3",
    "llmpool_instance_completion_tokens_total 4",
    'vllm:num_requests_running{model_name="stub"} 0',
    "llmpool_instance_ready 1",
  ]) {
    expect(text).toContain(`${line}\n`);
  }
});

test("a stream's first bytes wait for its first token, so an early error is plain HTTP", async () => {
  const { client } = await instanceServer({}, 2, 300);
  const late = await client.post("/v1/chat/completions", { ...says("!stub stall"), stream: true });
  expect(await errorOf(late)).toMatchObject({ status: 504, code: "request_timeout" });
  const begun = await client.post("/v1/chat/completions", { ...says("!stub stall=1"), stream: true });
  expect(begun.status).toBe(200);
  expect(readStream(await begun.text())).toMatchObject({
    error: { code: "request_timeout" },
    record: { completion_tokens: 1 },
  });
});
