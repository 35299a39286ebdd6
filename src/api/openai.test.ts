import fc from "fast-check";
import { describe, expect, test } from "vitest";
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

const messages = [{ role: "user", content: "hi" }];
const tools = [{ type: "function", function: { name: "f", parameters: {} } }];
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
    expect(problemsOf(parsed.error).param).toBe(param);
    expect(problemsOf(parsed.error).message).toContain(param);
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
    expect(problemsOf(parsed.error).param).toBe(param);
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
        const parsed = ChatRequest.safeParse(body);
        if (!parsed.success) expect(problemsOf(parsed.error).message).not.toBe("");
      },
    ),
  );
});
