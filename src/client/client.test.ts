import { describe, expect, test } from "vitest";
import { collect } from "../../test/support/collect.ts";
import { eventually } from "../../test/support/eventually.ts";
import { type Answer, type FakeWeb, json, status } from "../../test/support/fake-web.ts";
import { fakeWeb } from "../../test/support/resolve.ts";
import type { EpisodeObject, GenerateAnswer } from "../api/http.ts";
import { LLMClient } from "./client.ts";
import type { StreamEvent } from "./stream.ts";
import type { ClientOptions } from "./transport.ts";

const CHAT = "/v1/chat/completions";
const usage = (prompt: number, completion: number, cached = 0) => ({
  prompt_tokens: prompt,
  completion_tokens: completion,
  total_tokens: prompt + completion,
  prompt_tokens_details: { cached_tokens: cached },
});
const answer: GenerateAnswer = {
  text: "A plan.",
  instance_id: "0",
  session_id: "s1",
  finish_reason: "stop",
  usage: usage(10, 3, 8),
};
const episode = (fields: Partial<EpisodeObject> = {}): EpisodeObject => ({
  object: "episode",
  id: "ep1",
  state: "active",
  end_reason: null,
  started_at: "2026-01-01T00:00:00.000Z",
  deadline: "2026-01-01T00:30:00.000Z",
  time_remaining_s: 1800,
  extensions: 0,
  tokens_used: 0,
  tokens_reserved: 0,
  budget_tokens: null,
  last_progress: { event: "started", at: "2026-01-01T00:00:00.000Z" },
  sessions: [],
  metadata: {},
  ...fields,
});

function refuse(code: string, codeStatus: number, headers: Record<string, string> = {}): Answer {
  return (_, response) =>
    response
      .writeHead(codeStatus, { "content-type": "application/json", ...headers })
      .end(JSON.stringify({ error: { message: `the router says ${code}`, type: "x", code, param: "p" } }));
}

function sse(...frames: string[]): Answer {
  return (_, response) => {
    response.writeHead(200, {
      "content-type": "text/event-stream",
      "x-llmpool-instance": "0",
      "x-llmpool-role": "planner",
      "x-request-id": "r1",
    });
    response.end(frames.map((frame) => `${frame}\n\n`).join(""));
  };
}

async function pool(options: Partial<ClientOptions> = {}) {
  const web = await fakeWeb();
  const waits: number[] = [];
  const sleep = async (ms: number) => void waits.push(ms);
  return { web, waits, client: new LLMClient({ baseUrl: web.url("/v1/"), sleep, random: () => 1, ...options }) };
}

async function failure(promise: Promise<unknown>): Promise<Record<string, unknown>> {
  const error: unknown = await promise.then(
    () => undefined,
    (e: unknown) => e,
  );
  return { ...(error as object), message: (error as Error).message };
}

describe("generate", () => {
  test("asks the router for the agent's answer and gives all that it said", async () => {
    const { web, client } = await pool({ apiKey: "key" });
    web.on("/v1/generate", (request, response) => {
      response.setHeader("x-llmpool-role", "planner").setHeader("x-llmpool-queue-ms", "12");
      response.setHeader("x-llmpool-rebound", "true").setHeader("x-request-id", "r1");
      json(answer)(request, response);
    });
    const options = {
      sessionId: "s1",
      episodeId: "ep1",
      maxNewTokens: 5,
      timeoutSeconds: 9,
      stop: ["x"],
      temperature: 0,
      seed: 7,
    };
    expect(await client.generate("planner", "Plan.", { ...options, clampToBudget: true })).toEqual({
      text: "A plan.",
      instanceId: "0",
      sessionId: "s1",
      finishReason: "stop",
      usage: { promptTokens: 10, completionTokens: 3, totalTokens: 13, cachedTokens: 8 },
      role: "planner",
      queueMs: 12,
      rebound: true,
      requestId: "r1",
    });
    expect(web.seen[0]).toMatchObject({
      method: "POST",
      headers: { authorization: "Bearer key", "x-request-timeout": "9", "x-llmpool-budget": "clamp" },
    });
    expect(JSON.parse(web.seen[0]?.body ?? "")).toEqual({
      agent_id: "planner",
      prompt: "Plan.",
      session_id: "s1",
      episode_id: "ep1",
      max_new_tokens: 5,
      timeout_s: 9,
      stop: ["x"],
      temperature: 0,
      seed: 7,
    });
  });

  test("takes messages in place of a prompt", async () => {
    const { web, client } = await pool();
    web.on("/v1/generate", json(answer));
    const messages = [{ role: "user" as const, content: "Plan." }];
    await client.generate("planner", messages);
    expect(JSON.parse(web.seen[0]?.body ?? "")).toEqual({ agent_id: "planner", messages });
  });
});

describe("an error", () => {
  test("carries code, status, param and request id", async () => {
    const { web, client } = await pool();
    web.on("/v1/generate", refuse("context_length_exceeded", 400, { "x-request-id": "r9", "x-should-retry": "false" }));
    expect(await failure(client.generate("planner", "x"))).toMatchObject({
      code: "context_length_exceeded",
      status: 400,
      param: "p",
      requestId: "r9",
      retryable: false,
      local: false,
      message: "the router says context_length_exceeded",
    });
    expect(web.seen).toHaveLength(1);
  });

  test("that waiting cures is waited for, no shorter than the router asks", async () => {
    const { web, client, waits } = await pool();
    web.on(
      "/v1/generate",
      refuse("queue_full", 429, { "retry-after": "3" }),
      refuse("instance_unavailable", 503),
      json(answer),
    );
    expect(await client.generate("planner", "x")).toMatchObject({ text: "A plan." });
    expect(waits).toEqual([3000, 1000]);
  });

  test("that stays is thrown after the last try, with how long to wait", async () => {
    const { web, client } = await pool({ maxRetries: 1 });
    web.on("/v1/generate", refuse("queue_full", 429, { "retry-after": "3" }));
    expect(await failure(client.generate("planner", "x"))).toMatchObject({ code: "queue_full", retryAfterSeconds: 3 });
    expect(web.seen).toHaveLength(2);
  });

  test.each(["budget_exhausted", "episode_ended", "request_timeout"])("%s is never tried again", async (code) => {
    const { web, client } = await pool();
    web.on("/v1/generate", refuse(code, 429));
    expect(await failure(client.generate("planner", "x"))).toMatchObject({ code });
    expect(web.seen).toHaveLength(1);
  });

  test.each([
    { name: "a proxy's page", reply: status(502), code: "upstream_error" },
    { name: "an odd status", reply: status(418), code: "invalid_request" },
    { name: "an unknown code", reply: refuse("toString", 401), code: "unauthorized" },
  ])("of $name gets the code that its status stands for", async ({ reply, code }) => {
    const { web, client } = await pool({ maxRetries: 0 });
    web.on("/v1/generate", reply);
    expect(await failure(client.generate("planner", "x"))).toMatchObject({ code });
  });

  test("of the connection has its own code, and no status", async () => {
    const { web, client } = await pool();
    const url = web.url("");
    await web.close();
    const got = await failure(client.generate("planner", "x"));
    expect(got).toMatchObject({ code: "connection_error", status: undefined, retryable: false });
    expect(got.message).toContain(`cannot be reached at ${url} (connect ECONNREFUSED`);
    expect(got.message).toContain("check that it runs, and that the URL is right");
  });

  test("never shows the key", async () => {
    const { web, client } = await pool({ apiKey: "s3cret" });
    web.on("/v1/generate", status(401));
    expect(JSON.stringify(await failure(client.generate("planner", "x")))).not.toContain("s3cret");
  });

  test("of a bad baseUrl says what to write", () => {
    expect(() => new LLMClient({ baseUrl: "localhost:8080" })).toThrow("as http://127.0.0.1:8080");
  });
});

describe("an abort throws the signal's own reason", () => {
  const reason = new Error("stop");
  test("before, during and between tries", async () => {
    const { web, client } = await pool();
    expect(await client.generate("planner", "x", { signal: AbortSignal.abort(reason) }).catch((e) => e)).toBe(reason);
    const abort = new AbortController();
    web.on("/v1/generate", () => abort.abort(reason));
    expect(await client.generate("planner", "x", { signal: abort.signal }).catch((e) => e)).toBe(reason);
    const waiting = new AbortController();
    const real = new LLMClient({ baseUrl: web.url("") });
    web.on("/v1/generate", refuse("queue_full", 429, { "retry-after": "600" }));
    const done = real.generate("planner", "x", { signal: waiting.signal }).catch((e) => e);
    await eventually("the refusal", () => web.seen.length === 2);
    waiting.abort(reason);
    expect(await done).toBe(reason);
  });

  test("in the middle of a stream, and the router sees the connection close", async () => {
    const { web, client } = await pool();
    let closed = false;
    web.on(CHAT, (_, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write('data: {"choices":[{"delta":{"content":"a"}}]}\n\n');
      response.on("close", () => (closed = true));
    });
    const abort = new AbortController();
    const read = async () => {
      for await (const _ of client.stream("planner", "x", { signal: abort.signal })) abort.abort(reason);
    };
    expect(await read().catch((e) => e)).toBe(reason);
    await eventually("the connection to close", () => closed);
  });
});

describe("stream", () => {
  const piece = (content: string) => `data: ${JSON.stringify({ choices: [{ delta: { content } }] })}`;

  test("yields stages, text as it comes, and at the end all of it", async () => {
    const { web, client } = await pool();
    const last = `data: ${JSON.stringify({ choices: [], usage: usage(4, 2), llmpool: { instance: "1", queue_ms: 5, rebound: true } })}`;
    const end = 'data: {"choices":[{"delta":{},"finish_reason":"length"}]}';
    web.on(CHAT, sse(": queued 3", ": prefill", piece("A "), piece("plan."), end, last, "data: [DONE]"));
    const events = await collect(client.stream("planner", "Plan.", { sessionId: "s1", timeoutSeconds: 9 }));
    expect(events).toEqual<StreamEvent[]>([
      { type: "stage", stage: "queued 3" },
      { type: "stage", stage: "prefill" },
      { type: "text", text: "A " },
      { type: "text", text: "plan." },
      {
        type: "done",
        generation: {
          text: "A plan.",
          instanceId: "1",
          sessionId: "s1",
          finishReason: "length",
          usage: { promptTokens: 4, completionTokens: 2, totalTokens: 6, cachedTokens: 0 },
          role: "planner",
          queueMs: 5,
          rebound: true,
          requestId: "r1",
        },
      },
    ]);
    expect(web.seen[0]?.headers).toMatchObject({
      "x-agent-id": "planner",
      "x-session-id": "s1",
      "x-request-timeout": "9",
    });
    expect(JSON.parse(web.seen[0]?.body ?? "")).toMatchObject({
      stream: true,
      messages: [{ role: "user", content: "Plan." }],
    });
  });

  test("throws an error that came after the first text, with its code", async () => {
    const { web, client } = await pool();
    const error = 'data: {"error":{"message":"gone","type":"server_error","code":"upstream_error","param":null}}';
    web.on(CHAT, sse(piece("A "), error));
    const events: StreamEvent[] = [];
    const read = async () => {
      for await (const event of client.stream("planner", "x")) events.push(event);
    };
    expect(await failure(read())).toMatchObject({ code: "upstream_error", status: 502, message: "gone" });
    expect(events).toEqual([{ type: "text", text: "A " }]);
    expect(web.seen).toHaveLength(1);
  });

  test.each([
    { name: "without [DONE]", reply: sse(piece("A ")) },
    {
      name: "cut",
      reply: ((_, response) => response.writeHead(200).write("data: {", () => response.destroy())) as Answer,
    },
    { name: "with something that is no JSON", reply: sse("data: <html>") },
  ])("that ends $name is a connection error", async ({ reply }) => {
    const { web, client } = await pool();
    web.on(CHAT, reply);
    expect(await failure(collect(client.stream("planner", "x")))).toMatchObject({ code: "connection_error" });
  });

  test("left early closes the connection, which stops the generation", async () => {
    const { web, client } = await pool();
    let closed = false;
    web.on(CHAT, (_, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" }).write(`${piece("A")}\n\n`);
      response.on("close", () => (closed = true));
    });
    for await (const _ of client.stream("planner", "x")) break;
    await eventually("the connection to close", () => closed);
  });
});

describe("without any I/O denies a request of an episode", () => {
  const asks = (web: FakeWeb) => web.seen.filter(({ path }) => path === "/v1/generate" || path === CHAT).length;

  test("whose id answered episode_ended", async () => {
    const { web, client } = await pool();
    web.on("/v1/generate", refuse("episode_ended", 409));
    await failure(client.generate("planner", "x", { episodeId: "ep1" }));
    expect(await failure(client.generate("coder", "x", { episodeId: "ep1" }))).toMatchObject({
      code: "episode_ended",
      local: true,
    });
    expect(await failure(collect(client.stream("coder", "x", { episodeId: "ep1" })))).toMatchObject({
      local: true,
    });
    expect(asks(web)).toBe(1);
  });

  test("that it finished, until the id is started anew", async () => {
    const { web, client } = await pool();
    web.on("/v1/episodes/ep1/finish", json(episode({ state: "ended", end_reason: "finished" })));
    web.on("/v1/episodes", json(episode(), "application/json", 201));
    web.on("/v1/generate", json(answer));
    await client.episodes.finish("ep1");
    expect(await failure(client.generate("planner", "x", { episodeId: "ep1" }))).toMatchObject({
      code: "episode_ended",
    });
    expect(asks(web)).toBe(0);
    await client.episodes.start({ id: "ep1" });
    await client.generate("planner", "x", { episodeId: "ep1" });
    expect(asks(web)).toBe(1);
  });

  test("until the router shows that it runs; then only what that one has used counts", async () => {
    const { web, client } = await pool();
    web.on("/v1/generate", json(answer), refuse("episode_ended", 409), json(answer));
    await client.generate("planner", "x", { episodeId: "ep1" });
    await failure(client.generate("planner", "x", { episodeId: "ep1" }));
    web.on("/v1/episodes", json({ object: "list", data: [episode({ budget_tokens: 26 })] }));
    await client.episodes.list();
    for (let i = 0; i < 2; i++) await client.generate("planner", "x", { episodeId: "ep1" });
    expect(await failure(client.generate("planner", "x", { episodeId: "ep1" }))).toMatchObject({
      ...{ code: "budget_exhausted", local: true },
    });
    expect(asks(web)).toBe(4);
  });

  test("but not one of which a single request came too late", async () => {
    const { web, client } = await pool();
    web.on("/v1/generate", refuse("episode_deadline_exceeded", 504), json(answer));
    const late = client.generate("planner", "x", { episodeId: "ep1" });
    expect(await failure(late)).toMatchObject({ code: "episode_deadline_exceeded" });
    expect(await client.generate("planner", "x", { episodeId: "ep1" })).toMatchObject({ text: "A plan." });
    expect(asks(web)).toBe(2);
  });

  test("whose budget its own answers have spent", async () => {
    const { web, client } = await pool();
    web.on("/v1/episodes", json(episode({ budget_tokens: 26 }), "application/json", 201));
    web.on("/v1/generate", json(answer));
    await client.episodes.start({ id: "ep1", budget_tokens: 26 });
    await client.generate("planner", "x", { episodeId: "ep1" });
    await client.generate("planner", "x", { episodeId: "ep1" });
    const denied = await failure(client.generate("planner", "x", { episodeId: "ep1" }));
    expect(denied).toMatchObject({ code: "budget_exhausted", local: true, status: undefined });
    expect(denied.message).toBe("the budget of episode ep1 is spent: 26 of 26 tokens");
    expect(asks(web)).toBe(2);
  });

  test("but not one that may still fit, nor another's", async () => {
    const { web, client } = await pool();
    web.on("/v1/episodes/ep1", json(episode({ budget_tokens: 26, tokens_used: 13, tokens_reserved: 13 })));
    web.on("/v1/generate", refuse("budget_exhausted", 429), json(answer));
    await client.episodes.get("ep1");
    await failure(client.generate("planner", "x", { episodeId: "ep1" }));
    await client.generate("planner", "x", { episodeId: "ep1", maxNewTokens: 1 });
    // Used as the router said (13) and as this client counted (13) are the same tokens, not 26.
    await client.generate("planner", "x", { episodeId: "ep1" });
    await client.generate("planner", "x", { episodeId: "ep2" });
    expect(asks(web)).toBe(4);
  });
});

describe("episodes", () => {
  test("are started, reported on, listed and ended over the control routes", async () => {
    const { web, client } = await pool();
    const created = episode({ budget_tokens: 5 });
    web.on("/v1/episodes", json(created, "application/json", 201), json({ object: "list", data: [created] }));
    for (const path of ["/v1/episodes/ep%3A1/progress", "/v1/episodes/ep%3A1/finish", "/v1/episodes/ep%3A1"])
      web.on(path, json(created));
    expect(await client.episodes.start({ id: "ep:1", timeout_s: 60 })).toEqual(created);
    expect(await client.episodes.list()).toEqual([created]);
    await client.progress("ep:1", "file_write", "a.ts");
    await client.episodes.progress("ep:1", "heartbeat");
    await client.episodes.finish("ep:1");
    await client.episodes.cancel("ep:1");
    expect(web.seen.map(({ method, path, body }) => [method, path, body])).toEqual([
      ["POST", "/v1/episodes", '{"id":"ep:1","timeout_s":60}'],
      ["GET", "/v1/episodes", ""],
      ["POST", "/v1/episodes/ep%3A1/progress", '{"event":"file_write","detail":"a.ts"}'],
      ["POST", "/v1/episodes/ep%3A1/progress", '{"event":"heartbeat"}'],
      ["POST", "/v1/episodes/ep%3A1/finish", ""],
      ["DELETE", "/v1/episodes/ep%3A1", ""],
    ]);
  });

  const EVENTS = "/v1/episodes/ep1/events";
  const event = (seq: number, kind: string, more: object = {}) =>
    `id: ${seq}\nevent: ${kind}\ndata: ${JSON.stringify({ event: kind, episode_id: "ep1", at: "t", ...more })}`;
  const beat = 'event: heartbeat\ndata: {"event":"episode_heartbeat"}';

  test("tell their events to the end, going on after each break behind the last one seen", async () => {
    const { web, client } = await pool();
    const ended = event(4, "ended", { reason: "finished" });
    web.on(
      EVENTS,
      sse(event(1, "started"), event(2, "progress"), beat),
      sse(),
      status(503),
      sse(event(3, "progress"), beat, ended),
    );
    web.on("/v1/episodes/ep1", json(episode()));
    const seen = await collect(client.episodes.events("ep1"));
    expect(seen.map((e) => e.event)).toEqual([
      "started",
      "progress",
      "episode_heartbeat",
      "progress",
      "episode_heartbeat",
      "ended",
    ]);
    expect(web.asked(EVENTS).map(({ headers }) => headers["last-event-id"])).toEqual([undefined, "2", "2", "2"]);
    expect(await failure(client.generate("planner", "x", { episodeId: "ep1" }))).toMatchObject({ local: true });
  });

  test("events behind the last one of an episode that has ended are none", async () => {
    const { web, client, waits } = await pool();
    web.on(EVENTS, sse());
    web.on("/v1/episodes/ep1", json(episode({ state: "ended", end_reason: "finished" })));
    expect(await collect(client.episodes.events("ep1", { lastEventId: 4 }))).toEqual([]);
    expect(web.asked(EVENTS).map(({ headers }) => headers["last-event-id"])).toEqual(["4", "4"]);
    expect(waits).toEqual([]);
  });

  test("the end of an episode that came between a connection and the question about it is told", async () => {
    const { web, client } = await pool();
    web.on(EVENTS, sse(), sse(event(5, "ended", { reason: "finished" })));
    web.on("/v1/episodes/ep1", json(episode({ state: "ended", end_reason: "finished" })));
    const seen = await collect(client.episodes.events("ep1", { lastEventId: 4 }));
    expect(seen.map((e) => e.event)).toEqual(["ended"]);
  });

  test("events begin where the caller says, and end when the episode is unknown", async () => {
    const { web, client } = await pool();
    web.on(EVENTS, refuse("not_found", 404));
    const done = collect(client.episodes.events("ep1", { lastEventId: 7 }));
    expect(await failure(done)).toMatchObject({ code: "not_found" });
    expect(web.seen.map(({ headers }) => headers["last-event-id"])).toEqual(["7"]);
  });

  test("events give up on a router that does not come back", async () => {
    const { web, client, waits } = await pool();
    await web.close();
    expect(await failure(collect(client.episodes.events("ep1")))).toMatchObject({ code: "connection_error" });
    expect(waits).toEqual([500, 1000, 2000, 4000, 8000, 10000, 10000, 10000]);
  });
});

test("sessions and instances are listed and freed", async () => {
  const { web, client } = await pool();
  web.on("/v1/sessions", json({ object: "list", data: [{ id: "s1" }] }));
  web.on("/v1/instances", json({ object: "list", data: [{ id: "0" }] }));
  web.on("/v1/sessions/s1", json({ deleted: true }));
  expect(await client.sessions()).toEqual([{ id: "s1" }]);
  expect(await client.instances()).toEqual([{ id: "0" }]);
  await client.deleteSession("s1");
  expect(web.seen.at(-1)).toMatchObject({ method: "DELETE", path: "/v1/sessions/s1" });
});
