import { expect, test } from "vitest";
import type { RequestRecord } from "../../src/api/instance.ts";
import { type Client, errorOf, readStream } from "./client.ts";
import { type ConformanceOptions, hello, newId } from "./shared.ts";

/** What a good request gets, whole and streamed. */
export function answerTests(client: () => Client, { longPrompt, logprobs }: ConformanceOptions): void {
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

  const likely = { ...hello, logprobs: true, top_logprobs: 3 };

  if (logprobs) {
    test("log probabilities are of every token, whole and streamed", async () => {
      const [choice] = (await client().chat(likely)).choices;
      const tokens = choice.logprobs?.content ?? [];
      const textOf = (parts: { bytes: number[] }[]) => Buffer.from(parts.flatMap(({ bytes }) => bytes)).toString();
      expect(textOf(tokens)).toBe(choice.message.content);
      for (const { token, bytes, logprob, top_logprobs: top } of tokens) {
        expect(top).toHaveLength(3);
        // At temperature 0 the likeliest comes.
        expect(top[0]).toEqual({ token, bytes, logprob });
        const values = top.map((one) => one.logprob);
        expect(values).toEqual(values.toSorted((a, b) => b - a));
        expect(values.reduce((sum, value) => sum + Math.exp(value), 0)).toBeLessThanOrEqual(1.0001);
      }
      const stream = await client().stream("/v1/chat/completions", likely);
      expect(textOf(stream.chunks.flatMap((chunk) => chunk.choices[0]?.logprobs?.content ?? []))).toBe(stream.text);
      expect(stream.text).toBe(choice.message.content);
      expect((await client().chat({ ...hello, logprobs: true })).choices[0].logprobs?.content[0]?.top_logprobs).toEqual(
        [],
      );
      expect((await client().chat(hello)).choices[0].logprobs).toBeNull();
    });
  } else {
    test("log probabilities are refused by an engine that has none", async () => {
      const refused = await errorOf(await client().post("/v1/chat/completions", likely));
      expect(refused).toMatchObject({ status: 400, code: "invalid_request", param: "logprobs" });
      expect(refused.message).toContain("leave logprobs out");
    });
  }

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

  test("stop strings end free text only: no forced call, no JSON", async () => {
    const stop = ['"', "{", "}", "</"];
    const answers = async (body: object) =>
      [await client().chat(body), await client().chat({ ...body, stop })].map(({ choices: [choice] }) => [
        choice.message.content,
        choice.message.tool_calls?.map((call) => call.function),
        choice.finish_reason,
      ]);
    const [free, stopped] = await answers(asking);
    expect(stopped).toEqual(free);
    const schema = { type: "object", properties: { ok: { type: "boolean" } }, required: ["ok"] };
    const [json, stoppedJson] = await answers({
      messages: asking.messages,
      response_format: { type: "json_schema", json_schema: { name: "result", schema } },
      max_tokens: 100,
      temperature: 0,
    });
    expect(stoppedJson).toEqual(json);
  });

  test("of a forced call that is cut nothing is shown", async () => {
    const cut = { ...asking, max_tokens: 4 };
    const [choice] = (await client().chat(cut)).choices;
    expect(choice).toMatchObject({ finish_reason: "length", message: { content: null } });
    expect(choice.message.tool_calls).toBeUndefined();
    const stream = await client().stream("/v1/chat/completions", cut);
    expect(stream).toMatchObject({ finishReason: "length", text: "" });
    expect(stream.chunks.flatMap((chunk) => chunk.choices[0]?.delta?.tool_calls ?? [])).toEqual([]);
    expect(stream.record?.completion_tokens).toBe(4);
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
