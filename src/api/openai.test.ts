import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { z } from "zod";
import { EpisodeCreate, GenerateBody, ProgressReport } from "./http.ts";
import {
  ChatRequest,
  CompletionRequest,
  maxTokensOf,
  problemsOf,
  promptOf,
  responseFormatOf,
  samplingOf,
  stopOf,
} from "./openai.ts";

const SCHEMAS = { ChatRequest, GenerateBody, EpisodeCreate, ProgressReport };
const messages = [{ role: "user", content: "hi" }];
const tools = [{ type: "function", function: { name: "f", parameters: {} } }];
const said = (schema: z.ZodType, body: unknown) => {
  const { error } = schema.safeParse(body);
  return error && problemsOf(error, body, schema);
};
const deep = (levels: number): unknown => (levels === 0 ? {} : { a: deep(levels - 1) });

describe("refused, with the field at fault", () => {
  test.each([
    ["an array as body", [], ""],
    ["no messages", {}, "messages"],
    ["empty messages", { messages: [] }, "messages"],
    ["too many messages", { messages: Array(4097).fill(messages[0]) }, "messages"],
    ["unknown role", { messages: [...messages, { role: "function", content: "x" }] }, "messages[1].role"],
    ["missing content", { messages: [{ role: "user" }] }, "messages[0].content"],
    ["null content", { messages: [{ role: "user", content: null }] }, "messages[0].content"],
    ["an image", { messages: [{ role: "user", content: [{ type: "image_url" }] }] }, "messages[0].content[0].type"],
    ["a null part", { messages: [{ role: "user", content: [null] }] }, "messages[0].content[0].type"],
    [
      "an image from the assistant",
      { messages: [{ role: "assistant", content: [{ type: "image_url" }] }] },
      "messages[0].content[0].type",
    ],
    [
      "text that is no string",
      { messages: [{ role: "user", content: [{ type: "text", text: 5 }] }] },
      "messages[0].content[0].text",
    ],
    ["a tool answer without its call", { messages: [{ role: "tool", content: "x" }] }, "messages[0].tool_call_id"],
    ["n", { messages, n: 2 }, "n"],
    ["logprobs", { messages, logprobs: 1 }, "logprobs"],
    ["top_logprobs alone", { messages, top_logprobs: 2 }, "top_logprobs"],
    ["too many top_logprobs", { messages, logprobs: true, top_logprobs: 21 }, "top_logprobs"],
    ["functions", { messages, functions: [] }, "functions"],
    ["logit_bias", { messages, logit_bias: { 5: 1 } }, "logit_bias"],
    ["negative max_tokens", { messages, max_tokens: -1 }, "max_tokens"],
    ["no max_tokens at all", { messages, max_tokens: 0 }, "max_tokens"],
    ["huge max_tokens", { messages, max_completion_tokens: 1e12 }, "max_completion_tokens"],
    ["half a token", { messages, max_tokens: 1.5 }, "max_tokens"],
    ["temperature", { messages, temperature: 2.1 }, "temperature"],
    ["NaN", { messages, temperature: Number.NaN }, "temperature"],
    ["infinity", { messages, top_p: Number.POSITIVE_INFINITY }, "top_p"],
    ["top_p 0", { messages, top_p: 0 }, "top_p"],
    ["text as seed", { messages, seed: "1" }, "seed"],
    ["an empty stop", { messages, stop: [""] }, "stop[0]"],
    ["seventeen stops", { messages, stop: Array(17).fill("x") }, "stop"],
    ["metadata that is no string", { messages, metadata: { a: 1 } }, "metadata.a"],
    [
      "a schema that is no object",
      { messages, tools: [{ type: "function", function: { name: "f", parameters: 5 } }] },
      "tools[0].function.parameters",
    ],
    [
      "a deep schema",
      { messages, response_format: { type: "json_schema", json_schema: { schema: deep(40) } } },
      "response_format.json_schema.schema",
    ],
    [
      "a wide schema",
      { messages, response_format: { type: "json_schema", json_schema: { schema: { enum: Array(20_000).fill(1) } } } },
      "response_format.json_schema.schema",
    ],
    ["unknown response format", { messages, response_format: { type: "yaml" } }, "response_format.type"],
    [
      "a choice of no tool",
      { messages, tools, tool_choice: { type: "function", function: { name: "g" } } },
      "tool_choice",
    ],
    ["a choice without tools", { messages, tool_choice: "required" }, "tool_choice"],
    ["129 tools", { messages, tools: Array(129).fill(tools[0]) }, "tools"],
    [
      "a function name with a space",
      { messages, tools: [{ type: "function", function: { name: "f g" } }] },
      "tools[0].function.name",
    ],
  ])("%s", (_, body, param) => {
    const parsed = ChatRequest.safeParse(body);
    if (parsed.success) throw new Error("was accepted");
    const problem = problemsOf(parsed.error, body, ChatRequest);
    expect(problem.param).toBe(param);
    expect(problem.message).toContain(param);
  });

  test.each([
    ["several prompts", { prompt: ["a", "b"] }, "prompt"],
    ["an empty prompt", { prompt: "" }, "prompt"],
    ["logprobs", { prompt: "a", logprobs: 1 }, "logprobs"],
    ["echo", { prompt: "a", echo: true }, "echo"],
    ["suffix", { prompt: "a", suffix: "b" }, "suffix"],
  ])("%s", (_, body, param) => {
    const parsed = CompletionRequest.safeParse(body);
    if (parsed.success) throw new Error("was accepted");
    expect(problemsOf(parsed.error, body, CompletionRequest).param).toBe(param);
  });
});

describe("refused in words that say what to write instead", () => {
  const one = (body: object) => ({ messages, ...body });
  test.each<[keyof typeof SCHEMAS, unknown, string | RegExp]>([
    ["ChatRequest", [], "the body is a list: write an object with model, stream, stream_options, max_tokens…"],
    ["ChatRequest", {}, "messages: is missing: write a list"],
    ["ChatRequest", { messages: [] }, "messages: is a list: write at least 1 item"],
    ["ChatRequest", { messages: [5] }, "messages[0]: is 5: write an object"],
    [
      "ChatRequest",
      { messages: [{ role: "asistant" }] },
      'messages[0].role: is "asistant": write one of system, developer, user, assistant, tool; did you mean assistant?',
    ],
    [
      "ChatRequest",
      { messages: [{ role: "user" }] },
      "messages[0].content: is missing: write a text or a list of text parts",
    ],
    [
      "ChatRequest",
      { messages: [{ role: "user", content: [{ type: "image_url" }] }] },
      'messages[0].content[0].type: is "image_url": only parts of type text are supported: write those',
    ],
    [
      "ChatRequest",
      one({ top_p: 0, temperature: 3 }),
      "temperature: is 3: write at most 2; top_p: is 0: write more than 0",
    ],
    ["ChatRequest", one({ max_tokens: 1.5 }), "max_tokens: is 1.5: write a whole number"],
    ["ChatRequest", one({ user: 5 }), "user: is 5: write a text, in quotes"],
    ["ChatRequest", one({ stream: "yes" }), 'stream: is "yes": write true or false'],
    ["ChatRequest", one({ metadata: { a: 1 } }), "metadata.a: is 1: write a text, in quotes"],
    [
      "ChatRequest",
      one({ metadata: { a: "x".repeat(513) } }),
      /^metadata\.a: is "x{79}…: write at most 512 characters$/,
    ],
    ["ChatRequest", one({ functions: [] }), "functions: is a list: no longer supported: write tools"],
    ["ChatRequest", one({ n: 2 }), "n: is 2: only 1 is supported: send one request for each answer"],
    [
      "ChatRequest",
      one({ tools: [{ type: "web" }] }),
      /^tools\[0\]\.type: is "web": write function; tools\[0\]\.function: is missing/,
    ],
    [
      "ChatRequest",
      one({ tool_choice: "required" }),
      'tool_choice: is "required": write tools beside it, or remove it',
    ],
    ["ChatRequest", one({ top_logprobs: 2 }), "top_logprobs: is 2: write logprobs: true beside it, or remove it"],
    ["ChatRequest", one({ n: 2, seed: "1", user: 5, top_k: -7 }), /^([^;]*; ){2}[^;]*$/],
    ["GenerateBody", { prompt: "x", max_tokens: 5 }, "max_tokens: is not a field: did you mean max_new_tokens?"],
    [
      "GenerateBody",
      { prompt: "x", zzz: 5 },
      /^zzz: is not a field: remove it, or write one of role, agent_id, .*, max_new_tokens, /,
    ],
    [
      "GenerateBody",
      { prompt: "x", instance_id: {} },
      "instance_id: is an object: write the id of an instance, such as 0 or code-0",
    ],
    ["GenerateBody", { prompt: "x", timeout_s: 0 }, "timeout_s: is 0: write more than 0"],
    ["EpisodeCreate", { metadata: { "": "x" } }, 'metadata.: is "x": its name: write at least 1 character'],
    [
      "ProgressReport",
      { event: "heartbeet" },
      'event: is "heartbeet": write one of test_discovery, test_execution, file_write, patch, token_usage, topology_switch, llm_response, heartbeat; did you mean heartbeat?',
    ],
  ])("%s %j", (schema, body, message) => {
    expect(said(SCHEMAS[schema], body)?.message).toEqual(
      typeof message === "string" ? message : expect.stringMatching(message),
    );
  });

  test("an unknown field is the param, cut and printable; of many, three are named", () => {
    expect(said(GenerateBody, { max_tokens: 5 })?.param).toBe("max_tokens");
    expect(said(GenerateBody, { ["\u001b\n".repeat(1e6)]: 5 })?.param).toBe("?".repeat(128));
    const many = Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`max_new_token${i}`, 1]));
    expect(said(GenerateBody, many)?.message.split("; ")).toHaveLength(3);
  });
});

test("text parts become one text, other fields are ignored", () => {
  const content = [
    { type: "text", text: "a" },
    { type: "text", text: "b" },
  ];
  const body = ChatRequest.parse({ messages: [{ role: "user", content }], unknown_field: { x: 1 }, store: true });
  expect(promptOf(body)).toEqual({ kind: "chat", messages: [{ role: "user", content: "a\nb" }] });
});

test("a whole request becomes what a backend takes", () => {
  const call = { id: "c1", type: "function", function: { name: "f", arguments: "{}" } };
  const body = ChatRequest.parse({
    messages: [
      { role: "system", content: "s" },
      { role: "user", content: "u", name: "ann" },
      { role: "assistant", content: null, tool_calls: [call] },
      { role: "tool", content: "r", tool_call_id: "c1" },
    ],
    tools: [{ type: "function", function: { parameters: { type: "object" }, name: "f", extra: 1 } }],
    tool_choice: { type: "function", function: { name: "f" } },
    max_tokens: 7,
    max_completion_tokens: 5,
    stop: "END",
    seed: 3,
    temperature: 0,
    top_k: -1,
    response_format: { type: "json_schema", json_schema: { name: "n", strict: true, schema: { type: "object" } } },
  });
  expect(promptOf(body)).toEqual({
    kind: "chat",
    messages: [
      { role: "system", content: "s" },
      { role: "user", content: "u", name: "ann" },
      { role: "assistant", content: null, tool_calls: [call] },
      { role: "tool", content: "r", tool_call_id: "c1" },
    ],
    tools: [{ type: "function", function: { name: "f", parameters: { type: "object" } } }],
    toolChoice: { name: "f" },
  });
  expect(maxTokensOf(body)).toBe(5);
  expect(stopOf(body)).toEqual(["END"]);
  expect(samplingOf(body)).toEqual({ temperature: 0, topP: 1, seed: 3 });
  expect(responseFormatOf(body)).toEqual({ type: "json_schema", schema: { type: "object" } });
});

test("null means absent, and absent means OpenAI's defaults", () => {
  const body = ChatRequest.parse({
    messages,
    max_tokens: null,
    stop: null,
    temperature: null,
    seed: null,
    tools: null,
    response_format: null,
  });
  expect(maxTokensOf(body)).toBeUndefined();
  expect(stopOf(body)).toEqual([]);
  expect(samplingOf(body)).toEqual({ temperature: 1, topP: 1 });
  expect(responseFormatOf(body)).toEqual({ type: "text" });
});

test("whatever JSON comes, checking it never throws, and what is refused names a problem", () => {
  fc.assert(
    fc.property(
      fc.record({ messages: fc.jsonValue(), tools: fc.jsonValue(), stop: fc.jsonValue(), tool_choice: fc.jsonValue() }),
      (body) => {
        const problem = said(ChatRequest, body);
        // What begins with a capital letter is a text of zod's.
        if (problem) expect(problem.message).toMatch(/^[a-z].*: is (?!.*: [A-Z]).*: .+/s);
      },
    ),
  );
});
