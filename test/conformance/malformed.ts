import type { ErrorCode } from "../../src/lib/errors.ts";

interface Malformed {
  name: string;
  path: string;
  /** Sent as it is when it is text. */
  body: unknown;
  status: number;
  code: ErrorCode;
  param?: string;
}

const messages = [{ role: "user", content: "hi" }];
const chat = (name: string, body: unknown, param?: string): Malformed => ({
  name,
  path: "/v1/chat/completions",
  body,
  status: 400,
  code: "invalid_request",
  ...(param !== undefined && { param }),
});

/** Bodies that every instance refuses in the same words, whatever its engine. */
export const MALFORMED: Malformed[] = [
  chat("an empty body", ""),
  chat("text", "hello"),
  chat("cut JSON", '{"messages": [{"role": "user"'),
  chat("NaN", '{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}'),
  chat("an array", "[]"),
  chat("null", "null"),
  chat("no messages", {}, "messages"),
  chat("empty messages", { messages: [] }, "messages"),
  chat("10,000 levels", `{"messages": ${"[".repeat(10_000)}${"]".repeat(10_000)}}`, "messages[0]"),
  chat("an unknown role", { messages: [{ role: "robot", content: "x" }] }, "messages[0].role"),
  chat(
    "an image",
    { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "http://127.0.0.1/" } }] }] },
    "messages[0].content[0].type",
  ),
  chat("several answers", { messages, n: 1000 }, "n"),
  chat("likeliest tokens without log probabilities", { messages, top_logprobs: 2 }, "top_logprobs"),
  chat("negative max_tokens", { messages, max_tokens: -5 }, "max_tokens"),
  chat("huge max_tokens", { messages, max_tokens: 1e15 }, "max_tokens"),
  chat("temperature as text", { messages, temperature: "0" }, "temperature"),
  chat(
    "a schema that is too deep",
    { messages, response_format: { type: "json_schema", json_schema: { schema: nested(100) } } },
    "response_format.json_schema.schema",
  ),
  chat(
    "a forced tool that is not there",
    { messages, tool_choice: { type: "function", function: { name: "x" } } },
    "tool_choice",
  ),
  chat("a stop list that is too long", { messages, stop: Array(100).fill("x") }, "stop"),
  { ...chat("several raw prompts", { prompt: ["a", "b"] }, "prompt"), path: "/v1/completions" },
  { ...chat("a raw prompt with a suffix", { prompt: "a", suffix: "b" }, "suffix"), path: "/v1/completions" },
];

function nested(levels: number): object {
  return levels === 0 ? {} : { properties: nested(levels - 1) };
}
