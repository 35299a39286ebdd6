import type { FinishReason, GenerateRequest, Prompt } from "../../src/api/backend.ts";
import { stubCallTokens, stubPieces } from "../../src/core/stub-tokenizer.ts";
import { jsonInstance } from "./json-instance.ts";
import published from "./published/keywords.json" with { type: "json" };

/** All that one answer will be, known before its first token. */
export interface Reply {
  /** Every generated token; its visible text, which is empty inside a tool call and behind a stop string. */
  tokens: { token: string; text: string }[];
  call?: { name: string; arguments: string };
  finishReason: FinishReason;
}

export interface ReplyOptions {
  /** The text that decides, without its directive line. */
  text: string;
  /** Length of a text answer, in tokens. */
  length: number;
  /** What the cache held, for the directive `recall`. */
  recalled?: string;
  /** Most tokens there is room for. */
  room: number;
}

/** docs/stub.md in code: a tool call, else JSON, else the keyword's reply with filler words up to the length; cut at stop strings and at `room`. */
export function planReply(
  request: Pick<GenerateRequest, "prompt" | "responseFormat" | "stop">,
  options: ReplyOptions,
): Reply {
  const tool = toolFor(request.prompt, options.text);
  if (tool) {
    const call = { name: tool.name, arguments: JSON.stringify(jsonInstance(tool.parameters ?? {}, "tools")) ?? "null" };
    const tokens = stubCallTokens(call).map((token) => ({ token, text: "" }));
    if (tokens.length > options.room) return { tokens: tokens.slice(0, options.room), finishReason: "length" };
    return { tokens, call, finishReason: "tool_calls" };
  }
  const pieces = textPieces(request, options);
  const stopped = request.responseFormat.type === "text" ? cutAtStop(pieces, request.stop) : undefined;
  if (stopped && stopped.length <= options.room) return { tokens: stopped, finishReason: "stop" };
  const tokens = (stopped ?? pieces.map((token) => ({ token, text: token }))).slice(0, options.room);
  return { tokens, finishReason: pieces.length > options.room ? "length" : "stop" };
}

function textPieces(request: Pick<GenerateRequest, "responseFormat">, options: ReplyOptions): string[] {
  const format = request.responseFormat;
  if (format.type === "json_object") return stubPieces("{}");
  if (format.type === "json_schema") {
    return stubPieces(JSON.stringify(jsonInstance(format.schema, "response_format.json_schema.schema")));
  }
  if (options.recalled !== undefined) return stubPieces(options.recalled);
  // Nothing beyond the room is ever sent, but one token more tells whether it was cut.
  const length = Math.min(options.length, options.room + 1);
  const pieces = stubPieces(keywordReply(options.text)).slice(0, length);
  for (let i = 0; pieces.length < length; i++) pieces.push(` ${published.filler[i % published.filler.length]}`);
  return pieces;
}

/** The reply of the first keyword in the table that is among the words of the text. */
export function keywordReply(text: string): string {
  const words = new Set(text.toLowerCase().match(/[a-z0-9_]+/g));
  return published.keywords.find(({ keyword }) => words.has(keyword))?.reply ?? published.default;
}

/** `auto` calls a tool that the user's message names, when that message is the last one: an agent's loop ends after the tool's answer. */
function toolFor(prompt: Prompt, text: string): { name: string; parameters?: Record<string, unknown> } | undefined {
  if (prompt.kind === "raw" || !prompt.tools || prompt.tools.length === 0) return undefined;
  const tools = prompt.tools.map((tool) => tool.function);
  const choice = prompt.toolChoice ?? "auto";
  if (choice === "none") return undefined;
  if (typeof choice === "object") return tools.find((tool) => tool.name === choice.name);
  const named = tools.find((tool) => text.includes(tool.name));
  if (choice === "required") return named ?? tools[0];
  return prompt.messages.at(-1)?.role === "user" ? named : undefined;
}

/** The tokens up to the one that completes the first stop string; text from the stop string on is not shown. Undefined: none occurs. */
function cutAtStop(pieces: readonly string[], stops: readonly string[]): Reply["tokens"] | undefined {
  if (stops.length === 0) return undefined;
  const whole = pieces.join("");
  let start = Infinity;
  let end = Infinity;
  // The first to be complete wins, as when reading along; of several complete at one place, the one that begins first.
  for (const stop of stops) {
    const at = whole.indexOf(stop);
    if (at < 0 || at + stop.length > end || (at + stop.length === end && at > start)) continue;
    start = at;
    end = at + stop.length;
  }
  if (end === Infinity) return undefined;
  const tokens: Reply["tokens"] = [];
  let from = 0;
  for (const token of pieces) {
    tokens.push({ token, text: token.slice(0, Math.max(0, start - from)) });
    from += token.length;
    if (from >= end) break;
  }
  return tokens;
}
