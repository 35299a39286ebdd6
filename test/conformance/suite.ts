import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type RequestRecord, USAGE_COMMENT } from "../../src/api/instance.ts";
import { eventually } from "../support/eventually.ts";
import { type CallOptions, Client, errorOf, metricsOf, readStream } from "./client.ts";
import { MALFORMED } from "./malformed.ts";

/** A running instance that listens; `stop` leaves nothing behind. */
export interface Target {
  url: string;
  token: string;
  /** Full URL of the metrics page. */
  metricsUrl: string;
  stop(): Promise<void>;
}

export interface ConformanceOptions {
  /** `core`: any server that speaks the protocol. `session`: also the KV caches of sessions, which ours keep. */
  profile: "core" | "session";
  /** Context of the started instance, in tokens; at least 256. */
  contextTokens: number;
  /** Requests it runs at once, and caches it keeps warm; at least 2. */
  sessions: number;
  /** A raw prompt whose answer goes on for at least 200 tokens, and takes at least a second for them. */
  longPrompt: string;
  /** What a user says to get the text back that the model has in its context. */
  recall: string;
}

/** One suite for every runtime: what a router may rely on. `start` gives an instance that is not ready yet, or only just. */
export function conformance(name: string, start: () => Promise<Target>, options: ConformanceOptions): void {
  describe(`${name} keeps the instance protocol`, () => {
    let target: Target;
    let client: Client;
    beforeAll(async () => {
      target = await start();
      client = new Client(target);
    });
    afterAll(() => target?.stop());

    // First, while it still loads.
    test("takes work only after its warm-up", async () => {
      const early = await client.fetch("/readyz");
      if (early.status !== 200) {
        expect(early.status).toBe(503);
        const refused = await client.post("/v1/chat/completions", hello);
        if (refused.status !== 200) {
          expect(await errorOf(refused)).toMatchObject({ status: 503, code: "instance_unavailable" });
          expect(refused.headers.get("retry-after")).not.toBeNull();
        }
      }
      await eventually("it is ready", async () => (await client.fetch("/readyz")).status === 200);
      expect((await client.post("/v1/chat/completions", hello)).status).toBe(200);
    });

    accessTests(() => client);
    answerTests(() => client, options);
    limitTests(() => client, options);
    endingTests(
      () => client,
      () => target,
      options,
    );
    if (options.profile === "session")
      sessionTests(
        () => client,
        () => target,
        options,
      );

    // Last: it does not come back from this.
    test("a drain takes no new work and lets the running end", async () => {
      const running = client.stream("/v1/completions", { prompt: options.longPrompt, max_tokens: 60, temperature: 0 });
      await eventually("it runs", async () => (await runningOf(target)) > 0);
      expect((await client.post("/internal/drain", "")).status).toBe(200);
      const refused = await client.post("/v1/chat/completions", hello);
      expect(await errorOf(refused)).toMatchObject({ status: 503, code: "instance_unavailable" });
      expect((await client.fetch("/readyz")).status).toBe(503);
      expect((await client.fetch("/healthz")).status).toBe(200);
      expect((await running).kinds.at(-1)).toBe("done");
    });
  });
}

const hello = { messages: [{ role: "user", content: "hello" }], max_tokens: 8, temperature: 0 };
const newId = () => `t-${randomUUID()}`;

async function runningOf(target: Target): Promise<number> {
  return (await metricsOf(target.metricsUrl)).get("llmpool_instance_requests_running") ?? 0;
}

function accessTests(client: () => Client): void {
  test.each([
    ["POST", "/v1/chat/completions"],
    ["POST", "/v1/completions"],
    ["GET", "/v1/models"],
    ["GET", "/internal/requests/x"],
    ["POST", "/internal/drain"],
    ["DELETE", "/internal/sessions/x"],
    ["POST", "/internal/sessions/x/export"],
    ["POST", "/internal/sessions/x/import"],
    ["GET", "/metrics"],
    ["GET", "/none"],
  ])("%s %s needs the token", async (method, path) => {
    for (const authorization of ["", "Bearer", "Bearer wrong", "Basic dG9rZW4="]) {
      const response = await client().fetch(path, { method, headers: { authorization } });
      expect(await errorOf(response)).toMatchObject({ status: 401, code: "unauthorized" });
    }
  });

  test("probes need no token and say who answers", async () => {
    const response = await client().fetch("/healthz", { headers: { authorization: "" } });
    expect(await response.json()).toMatchObject({
      id: expect.any(String),
      boot: expect.any(String),
      uptime_s: expect.any(Number),
    });
    expect((await client().fetch("/readyz", { headers: { authorization: "" } })).status).toBe(200);
  });

  test("unknown paths and wrong methods are refused by name", async () => {
    expect(await errorOf(await client().fetch("/v2/models"))).toMatchObject({ status: 404, code: "not_found" });
    const wrong = await client().fetch("/v1/chat/completions");
    expect(wrong.headers.get("allow")).toBe("POST");
    expect(await errorOf(wrong)).toMatchObject({ status: 405, code: "method_not_allowed" });
  });

  test("lists its model", async () => {
    const list = (await (await client().fetch("/v1/models")).json()) as { data: { id: string }[] };
    expect(list).toMatchObject({ object: "list", data: [{ object: "model", id: expect.any(String) }] });
    const answer = await client().chat(hello);
    expect(answer.model).toBe(list.data[0]?.id);
  });

  test("a request that was never seen is unknown, with who says so", async () => {
    const response = await client().fetch(`/internal/requests/${newId()}`);
    expect(response.status).toBe(404);
    expect(await response.json()).toMatchObject({
      error: { code: "not_found" },
      boot: expect.any(String),
      uptime_s: expect.any(Number),
    });
  });
}

function answerTests(client: () => Client, { longPrompt }: ConformanceOptions): void {
  test("stream, body, usage comment and record say the same, to the token", async () => {
    const ids = [newId(), newId()] as const;
    const body = await client().chat(hello, { id: ids[0] });
    const stream = await client().stream("/v1/chat/completions", hello, { id: ids[1] });
    expect(stream.text).toBe(body.choices[0].message.content);
    expect(stream.finishReason).toBe(body.choices[0].finish_reason);
    expect(stream.usage).toEqual(body.usage);
    expect(body.usage.total_tokens).toBe(body.usage.prompt_tokens + body.usage.completion_tokens);
    const record: RequestRecord = {
      id: ids[1],
      done: true,
      prompt_tokens: body.usage.prompt_tokens,
      completion_tokens: body.usage.completion_tokens,
      cached_tokens: 0,
    };
    expect(stream.record).toEqual(record);
    expect(await client().record(ids[1])).toEqual(record);
    expect(await client().record(ids[0])).toEqual({ ...record, id: ids[0] });
  });

  test("a stream is role, text, finish, usage, comment, [DONE]", async () => {
    const { chunks, kinds } = await client().stream("/v1/chat/completions", hello);
    expect(chunks[0]?.choices[0]?.delta).toEqual({ role: "assistant", content: "" });
    expect(chunks.at(-2)?.choices[0]).toMatchObject({
      delta: {},
      finish_reason: expect.stringMatching(/^(stop|length)$/),
    });
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { prompt_tokens: expect.any(Number) } });
    expect(kinds.slice(-2)).toEqual(["usage", "done"]);
    for (const chunk of chunks)
      expect(chunk).toMatchObject({ id: chunks[0]?.id, object: "chat.completion.chunk", model: chunks[0]?.model });
    for (const chunk of chunks.slice(0, -1)) expect(chunk.usage).toBeNull();
  });

  test("a stream that was not asked for usage has none in its chunks", async () => {
    const response = await client().post("/v1/chat/completions", { ...hello, stream: true });
    const { chunks, record } = readStream(await response.text());
    for (const chunk of chunks) expect(chunk.usage).toBeUndefined();
    expect(record?.done).toBe(true);
  });

  test("raw completions stream and answer the same", async () => {
    const body = { prompt: longPrompt, max_tokens: 6, temperature: 0 };
    const response = await client().post("/v1/completions", body);
    const whole = (await response.json()) as {
      object: string;
      choices: [{ text: string; finish_reason: string }];
      usage: object;
    };
    expect(whole.object).toBe("text_completion");
    expect(whole.choices[0].finish_reason).toBe("length");
    const stream = await client().stream("/v1/completions", body);
    expect(stream.text).toBe(whole.choices[0].text);
    expect(stream.usage).toEqual(whole.usage);
  });

  test("max_tokens cuts exactly", async () => {
    const stream = await client().stream("/v1/completions", { prompt: longPrompt, max_tokens: 5, temperature: 0 });
    expect(stream.finishReason).toBe("length");
    expect(stream.record?.completion_tokens).toBe(5);
  });

  test("a stop string ends the text before it", async () => {
    const body = { prompt: longPrompt, max_tokens: 24, temperature: 0 };
    const whole = await client().stream("/v1/completions", body);
    const stop = whole.text.slice(6, 9);
    const cut = await client().stream("/v1/completions", { ...body, stop: [stop] });
    expect(cut.text).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
    expect(cut.finishReason).toBe("stop");
    expect(cut.record?.completion_tokens).toBeLessThan(24);
  });

  test("the same seed gives the same text", async () => {
    const body = { prompt: longPrompt, max_tokens: 12, temperature: 1, seed: 42 };
    const once = await client().stream("/v1/completions", body);
    expect((await client().stream("/v1/completions", body)).text).toBe(once.text);
  });

  const weather = {
    type: "function",
    function: {
      name: "weather",
      description: "Tells the weather of a city",
      parameters: {
        type: "object",
        properties: { city: { type: "string" }, days: { type: "integer" } },
        required: ["city"],
        additionalProperties: false,
      },
    },
  };
  const asking = {
    messages: [{ role: "user", content: "How is the weather in Paris?" }],
    tools: [weather],
    tool_choice: { type: "function", function: { name: "weather" } },
    max_tokens: 100,
    temperature: 0,
  };

  test("a forced tool is called with arguments of its schema, streamed and whole", async () => {
    const whole = await client().chat(asking);
    const call = whole.choices[0].message.tool_calls?.[0];
    expect(whole.choices[0].finish_reason).toBe("tool_calls");
    expect(call).toMatchObject({ type: "function", id: expect.any(String), function: { name: "weather" } });
    expect(JSON.parse(call?.function.arguments ?? "")).toMatchObject({ city: expect.any(String) });

    const stream = await client().stream("/v1/chat/completions", asking);
    expect(stream.finishReason).toBe("tool_calls");
    const deltas = stream.chunks.flatMap((chunk) => chunk.choices[0]?.delta?.tool_calls ?? []);
    expect(deltas[0]).toMatchObject({ index: 0, id: expect.any(String), function: { name: "weather" } });
    expect(deltas.map((d) => d.function.arguments).join("")).toBe(call?.function.arguments);
    expect(stream.usage).toEqual(whole.usage);
  });

  test("an answer after a tool's result is text", async () => {
    const call = { id: "call_1", type: "function", function: { name: "weather", arguments: '{"city":"Paris"}' } };
    const messages = [
      ...asking.messages,
      { role: "assistant", content: null, tool_calls: [call] },
      { role: "tool", tool_call_id: "call_1", content: "sunny" },
    ];
    const answer = await client().chat({ ...asking, messages, tool_choice: "none" });
    expect(answer.choices[0].message.tool_calls).toBeUndefined();
    expect(answer.choices[0].message.content).toEqual(expect.any(String));
  });

  test("a JSON schema is kept", async () => {
    const schema = {
      type: "object",
      properties: {
        ok: { type: "boolean" },
        level: { enum: ["low", "high"] },
        steps: { type: "array", items: { type: "integer" }, minItems: 1, maxItems: 2 },
      },
      required: ["ok", "level", "steps"],
      additionalProperties: false,
    };
    const answer = await client().chat({
      messages: [{ role: "user", content: "Answer in JSON." }],
      response_format: { type: "json_schema", json_schema: { name: "result", schema, strict: true } },
      max_tokens: 120,
      temperature: 0,
    });
    const value = JSON.parse(answer.choices[0].message.content ?? "") as {
      ok: unknown;
      level: string;
      steps: unknown[];
    };
    expect(Object.keys(value).sort()).toEqual(["level", "ok", "steps"]);
    expect(typeof value.ok).toBe("boolean");
    expect(["low", "high"]).toContain(value.level);
    expect(value.steps.every(Number.isInteger)).toBe(true);
    expect([1, 2]).toContain(value.steps.length);
  });
}

function limitTests(client: () => Client, { contextTokens, longPrompt }: ConformanceOptions): void {
  test.each(MALFORMED)("refuses $name", async ({ path, body, status, code, param }) => {
    const response = await client().post(path, body);
    const error = await errorOf(response);
    expect(error).toMatchObject({ status, code, ...(param !== undefined && { param }) });
  });

  test.each([
    ["x-request-id", "no spaces allowed"],
    ["x-request-id", "x".repeat(129)],
    ["x-llmpool-timeout-ms", "-1"],
    ["x-llmpool-timeout-ms", "1e3"],
    ["x-llmpool-max-total-tokens", "ten"],
    ["x-llmpool-session", "a b"],
  ])("refuses the header %s: %s", async (header, value) => {
    const response = await client().fetch("/v1/chat/completions", {
      method: "POST",
      body: JSON.stringify(hello),
      headers: { [header]: value },
    });
    expect(await errorOf(response)).toMatchObject({ status: 400, code: "invalid_request", param: header });
  });

  test("refuses a body that is not UTF-8", async () => {
    const body = Buffer.from('{"messages": [{"role": "user", "content": "\xff"}]}', "latin1");
    const response = await client().fetch("/v1/chat/completions", { method: "POST", body: new Uint8Array(body) });
    expect(await errorOf(response)).toMatchObject({ status: 400, code: "invalid_request" });
  });

  test("a prompt beyond the context is refused, never cut", async () => {
    const content = "word ".repeat(contextTokens + 10);
    const error = await errorOf(await client().post("/v1/chat/completions", { messages: [{ role: "user", content }] }));
    expect(error).toMatchObject({ status: 400, code: "context_length_exceeded", usage: { completion_tokens: 0 } });
  });

  test("a reservation is a hard limit: refused before prefill without room, else cut at it", async () => {
    const { prompt_tokens } = (await client().chat(hello)).usage;
    const id = newId();
    const refused = await client().post("/v1/chat/completions", hello, { id, maxTotalTokens: prompt_tokens });
    expect(await errorOf(refused)).toMatchObject({ status: 429, code: "budget_exhausted" });
    expect(refused.headers.get("x-should-retry")).toBe("false");
    expect(await client().record(id)).toMatchObject({ done: true, prompt_tokens: 0, completion_tokens: 0 });
    const cut = await client()
      .stream("/v1/completions", { prompt: longPrompt, temperature: 0 }, { maxTotalTokens: 0 })
      .catch(String);
    expect(cut).toContain("budget_exhausted");
    const free = await client().stream("/v1/completions", { prompt: longPrompt, temperature: 0, max_tokens: 1 });
    const limit = (free.usage?.prompt_tokens ?? 0) + 3;
    const exact = await client().stream(
      "/v1/completions",
      { prompt: longPrompt, temperature: 0, max_tokens: 20 },
      { maxTotalTokens: limit },
    );
    expect(exact).toMatchObject({ finishReason: "length", usage: { completion_tokens: 3 } });
  });

  test("one id is one usage: a second request with it is refused", async () => {
    const id = newId();
    await client().chat(hello, { id });
    expect(await errorOf(await client().post("/v1/chat/completions", hello, { id }))).toMatchObject({
      status: 400,
      param: "x-request-id",
    });
  });

  test("an id that was answered as unknown stays unused", async () => {
    const id = newId();
    expect((await client().fetch(`/internal/requests/${id}`)).status).toBe(404);
    expect(await errorOf(await client().post("/v1/chat/completions", hello, { id }))).toMatchObject({
      status: 400,
      param: "x-request-id",
    });
  });
}

function endingTests(client: () => Client, target: () => Target, { longPrompt, sessions }: ConformanceOptions): void {
  const long = { prompt: longPrompt, max_tokens: 200, temperature: 0 };

  test("a hang-up stops the generation, and the record says how far it came", async () => {
    const id = newId();
    const seen = await readSome(client(), long, { id }, 3);
    const record = await client().record(id);
    expect(record.done).toBe(true);
    expect(record.completion_tokens).toBeGreaterThanOrEqual(seen);
    expect(record.completion_tokens).toBeLessThan(200);
    expect(record.prompt_tokens).toBeGreaterThan(0);
    expect(await runningOf(target())).toBe(0);
  });

  test("a hang-up before the headers stops it too", async () => {
    const id = newId();
    const hangUp = new AbortController();
    const whole = client().post("/v1/completions", long, { id, signal: hangUp.signal });
    await eventually("it runs", async () => (await runningOf(target())) > 0);
    hangUp.abort();
    await expect(whole).rejects.toThrow();
    const record = await client().record(id);
    expect(record).toMatchObject({ done: true });
    expect(record.completion_tokens).toBeLessThan(200);
  });

  test("time that is up is request_timeout, with what was used", async () => {
    const late = await client().post("/v1/completions", long, { timeoutMs: 0 });
    expect(await errorOf(late)).toMatchObject({ status: 504, code: "request_timeout" });
    const id = newId();
    const whole = await errorOf(await client().post("/v1/completions", long, { id, timeoutMs: 300 }));
    expect(whole).toMatchObject({ status: 504, code: "request_timeout" });
    const record = await client().record(id);
    expect(record).toMatchObject({ done: true });
    expect(whole.usage).toMatchObject({
      prompt_tokens: record.prompt_tokens,
      completion_tokens: record.completion_tokens,
    });
    expect(record.completion_tokens).toBeLessThan(200);
  });

  test("an error after the first token is a frame behind the usage, without [DONE]", async () => {
    // How long the first token takes is not known: the time is doubled until it is out, and the others are not.
    for (let timeoutMs = 100; ; timeoutMs *= 2) {
      const response = await client().post("/v1/completions", { ...long, stream: true }, { timeoutMs });
      if (response.status === 504) continue;
      const stream = readStream(await response.text());
      expect(stream.error).toMatchObject({ code: "request_timeout" });
      expect(stream.kinds.slice(-2)).toEqual(["usage", "error"]);
      expect(stream.record).toMatchObject({ done: true });
      expect(stream.record?.completion_tokens).toBeGreaterThan(0);
      return;
    }
  });

  test(`${sessions} requests run side by side`, async () => {
    const streams = Array.from({ length: sessions }, () =>
      client().post("/v1/completions", { ...long, max_tokens: 120, stream: true }),
    );
    await eventually("all run at once", async () => (await runningOf(target())) === sessions);
    const texts = await Promise.all(streams.map(async (stream) => readStream(await (await stream).text()).text));
    expect(new Set(texts).size).toBe(1);
  });

  test("more requests than slots wait and are all answered", async () => {
    const all = await Promise.all(Array.from({ length: sessions * 3 }, () => client().chat(hello)));
    expect(new Set(all.map((a) => a.choices[0].message.content)).size).toBe(1);
  });

  test("metrics have our names and those of a model server", async () => {
    const metrics = await metricsOf(target().metricsUrl);
    const names = new Set([...metrics.keys()].map((key) => key.replace(/\{.*/, "")));
    for (const name of [
      "llmpool_instance_requests_total",
      "llmpool_instance_requests_running",
      "llmpool_instance_requests_waiting",
      "llmpool_instance_time_to_first_token_seconds_bucket",
      "llmpool_instance_inter_token_seconds_bucket",
      "llmpool_instance_prompt_tokens_total",
      "llmpool_instance_completion_tokens_total",
      "llmpool_instance_cached_tokens_total",
      "llmpool_instance_sessions",
      "llmpool_instance_kv_usage_ratio",
      "llmpool_instance_warmup_seconds",
      "vllm:num_requests_running",
      "vllm:num_requests_waiting",
      "vllm:kv_cache_usage_perc",
    ]) {
      expect(names).toContain(name);
    }
    expect(metrics.get('llmpool_instance_requests_total{code="ok"}')).toBeGreaterThan(0);
    expect(metrics.get('llmpool_instance_requests_total{code="aborted"}')).toBeGreaterThan(0);
    expect(metrics.get('llmpool_instance_requests_total{code="request_timeout"}')).toBeGreaterThan(0);
  });

  test("counters of tokens are the sum of the usages", async () => {
    const before = await metricsOf(target().metricsUrl);
    const { usage } = await client().chat(hello);
    const after = await metricsOf(target().metricsUrl);
    const grown = (name: string) => (after.get(name) ?? 0) - (before.get(name) ?? 0);
    expect(grown("llmpool_instance_prompt_tokens_total")).toBe(usage.prompt_tokens);
    expect(grown("llmpool_instance_completion_tokens_total")).toBe(usage.completion_tokens);
  });
}

function sessionTests(
  client: () => Client,
  target: () => Target,
  { sessions, recall, longPrompt }: ConformanceOptions,
): void {
  const story = "Remember this list: apples, pears, plums, cherries, grapes, lemons, limes, figs, dates and kiwis.";
  const turns = (...contents: string[]) =>
    contents.map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content }));
  const ask = (messages: object[], session: string) =>
    client().chat({ messages, max_tokens: 8, temperature: 0 }, { session });

  test("a second turn evaluates only what is new, and answers as if it had evaluated all", async () => {
    const session = newId();
    const first = await ask(turns(story), session);
    const answer = first.choices[0].message.content ?? "";
    const messages = turns(story, answer, "And now?");
    const second = await ask(messages, session);
    const alone = await ask(messages, newId());
    expect(first.usage.prompt_tokens_details.cached_tokens).toBe(0);
    // All but the template's last marks, which an answer may replace.
    expect(second.usage.prompt_tokens_details.cached_tokens).toBeGreaterThanOrEqual(first.usage.prompt_tokens - 8);
    expect(second.usage.prompt_tokens_details.cached_tokens).toBeLessThan(second.usage.prompt_tokens);
    expect(alone.usage).toMatchObject({
      prompt_tokens: second.usage.prompt_tokens,
      prompt_tokens_details: { cached_tokens: 0 },
    });
    expect(second.choices[0].message.content).toBe(alone.choices[0].message.content);
  });

  test("a one-off leaves nothing and finds nothing", async () => {
    await client().chat({ messages: turns(story), max_tokens: 4 });
    expect(
      (await client().chat({ messages: turns(story), max_tokens: 4 })).usage.prompt_tokens_details.cached_tokens,
    ).toBe(0);
  });

  test("a deleted session starts cold; deleting nothing is not_found", async () => {
    const session = newId();
    await ask(turns(story), session);
    expect((await client().fetch(`/internal/sessions/${session}`, { method: "DELETE" })).status).toBe(200);
    expect((await ask(turns(story), session)).usage.prompt_tokens_details.cached_tokens).toBe(0);
    await client().fetch(`/internal/sessions/${session}`, { method: "DELETE" });
    const again = await client().fetch(`/internal/sessions/${session}`, { method: "DELETE" });
    expect(await errorOf(again)).toMatchObject({ status: 404, code: "not_found" });
  });

  test("a session moves: export, import, next turn warm", async () => {
    const [from, to] = [newId(), newId()];
    const first = await ask(turns(story), from);
    const exported = await client().post(`/internal/sessions/${from}/export`, "");
    expect(exported.status).toBe(200);
    const bytes = new Uint8Array(await exported.arrayBuffer());
    const imported = await client().fetch(`/internal/sessions/${to}/import`, { method: "POST", body: bytes });
    expect(imported.status).toBe(200);
    const second = await ask(turns(story, first.choices[0].message.content ?? "", "And now?"), to);
    expect(second.usage.prompt_tokens_details.cached_tokens).toBeGreaterThanOrEqual(first.usage.prompt_tokens - 8);
    expect(await errorOf(await client().post(`/internal/sessions/${newId()}/export`, ""))).toMatchObject({
      status: 404,
    });
  });

  test("damaged or foreign bytes are refused, and the instance lives", async () => {
    const session = newId();
    await ask(turns(story), session);
    const bytes = new Uint8Array(await (await client().post(`/internal/sessions/${session}/export`, "")).arrayBuffer());
    const middle = Math.floor(bytes.length / 2);
    const damaged = [
      bytes.slice(0, middle),
      bytes.with(middle, (bytes[middle] ?? 0) ^ 0x55),
      new Uint8Array(4096).fill(7),
      new Uint8Array(),
    ];
    for (const body of damaged) {
      const response = await client().fetch(`/internal/sessions/${newId()}/import`, {
        method: "POST",
        body: new Uint8Array(body),
      });
      expect(await errorOf(response)).toMatchObject({ status: 400, code: "invalid_request" });
    }
    expect((await ask(turns("hello"), newId())).choices[0].finish_reason).toMatch(/stop|length/);
  });

  test("no session's secret shows in another's answer, over evictions and returns", async () => {
    const names = Array.from({ length: sessions * 2 + 1 }, (_, i) => `canary${i}x${randomUUID().slice(0, 8)}`);
    const round = (says: (secret: string) => string) =>
      Promise.all(
        names.map(async (secret) => {
          const answer = await client().chat(
            { messages: turns(says(secret)), max_tokens: 24, temperature: 0 },
            { session: secret },
          );
          return { secret, text: answer.choices[0].message.content ?? "" };
        }),
      );
    await round((secret) => `My secret word is ${secret}.`);
    for (const { secret, text } of [...(await round(() => recall)), ...(await round(() => recall))]) {
      for (const other of names) if (other !== secret) expect(text).not.toContain(other);
    }
  });

  test("a session's turns run one after the other, while other sessions pass", async () => {
    const session = newId();
    const hangUp = new AbortController();
    const body = { prompt: longPrompt, max_tokens: 200, temperature: 0, stream: true };
    const first = await client().post("/v1/completions", body, { session, signal: hangUp.signal });
    expect(first.status).toBe(200);
    const second = ask(turns(story), session);
    await eventually(
      "the second turn waits",
      async () => (await metricsOf(target().metricsUrl)).get("llmpool_instance_requests_waiting") === 1,
    );
    await ask(turns(story), newId());
    expect((await metricsOf(target().metricsUrl)).get("llmpool_instance_requests_waiting")).toBe(1);
    hangUp.abort();
    expect((await second).choices[0].finish_reason).toMatch(/stop|length/);
  });
}

/** Reads a stream until `count` content frames have come, hangs up, and says how many content frames it has seen. */
async function readSome(client: Client, body: object, options: CallOptions, count: number): Promise<number> {
  const hangUp = new AbortController();
  const response = await client.post(
    "/v1/completions",
    { ...body, stream: true },
    { ...options, signal: hangUp.signal },
  );
  expect(response.status).toBe(200);
  let text = "";
  let seen = 0;
  const decoder = new TextDecoder();
  for await (const part of response.body ?? []) {
    text += decoder.decode(part, { stream: true });
    seen = text.split("\n\n").filter((frame) => frame.startsWith("data: ") && !frame.startsWith(USAGE_COMMENT)).length;
    if (seen >= count) break;
  }
  hangUp.abort();
  return seen;
}
