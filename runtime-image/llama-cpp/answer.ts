import { createHash } from "node:crypto";
import type { FinishReason, GenerateEvent, ToolCall } from "../../src/api/backend.ts";
import { StopDetector } from "./stop.ts";
import { type Detokenize, TokenText } from "./token-text.ts";
import { JsonScan, type ParsedPart, ToolParser } from "./tool-parser.ts";

export interface AnswerOptions {
  requestId: string;
  stop: readonly string[];
  /** Names of the tools that may be called. */
  tools: readonly string[];
  /** The answer is one JSON object or list, and over when that is. */
  json: boolean;
  /** The answer is a call and nothing else: what is left of one that was cut belongs to nobody. */
  callOnly: boolean;
  detokenize: Detokenize;
}

/** Turns sampled tokens into events: text without stop strings and half characters, and tool calls. */
export class Answer {
  readonly #options: AnswerOptions;
  readonly #text: TokenText;
  readonly #stop: StopDetector;
  readonly #tools: ToolParser | undefined;
  readonly #json: JsonScan | undefined;
  #jsonText = "";
  #calls = 0;

  constructor(options: AnswerOptions) {
    this.#options = options;
    this.#text = new TokenText(options.detokenize);
    this.#stop = new StopDetector(options.stop);
    this.#tools = options.tools.length > 0 ? new ToolParser(options.tools) : undefined;
    this.#json = options.json ? new JsonScan() : undefined;
  }

  /** At least one event per token, so that the tokens are counted even when text is held back. `over` after a stop string or a whole JSON. */
  push(token: number): { events: GenerateEvent[]; over: boolean } {
    const { text, stopped } = this.#stop.push(this.#text.push(token));
    const over = stopped || this.#jsonIsWhole(text);
    return { events: this.#events(text, 1, false), over };
  }

  /** What was held back, with `tokens` that no event told yet. Not after a stop string. */
  end(tokens: number): GenerateEvent[] {
    return this.#events(this.#stop.flush(), tokens, true);
  }

  finishReason(ended: "stop" | "length"): FinishReason {
    return ended === "stop" && this.#calls > 0 ? "tool_calls" : ended;
  }

  #events(text: string, tokens: number, last: boolean): GenerateEvent[] {
    const parts: ParsedPart[] = this.#tools ? this.#tools.push(text) : text === "" ? [] : [{ text }];
    if (last && this.#tools) parts.push(...this.#tools.flush());
    const told = this.#options.callOnly ? parts.filter((part) => "call" in part) : parts;
    const events = told.map((part): GenerateEvent => {
      if ("text" in part) return { type: "text", text: part.text, tokens: 0 };
      const index = this.#calls++;
      return { type: "tool_call", index, call: this.#call(index, part.call), tokens: 0 };
    });
    const [first] = events;
    if (first && first.type !== "prompt" && first.type !== "done") first.tokens = tokens;
    else if (tokens > 0) events.unshift({ type: "text", text: "", tokens });
    return events;
  }

  /** Nine letters and digits: the one form of id that all chat templates take. Unique by the request's id. */
  #call(index: number, call: { name: string; arguments: string }): ToolCall {
    const hash = createHash("sha256").update(`${this.#options.requestId}:${index}`).digest("hex");
    return { id: hash.slice(0, 9), type: "function", function: call };
  }

  #jsonIsWhole(text: string): boolean {
    if (!this.#json) return false;
    this.#jsonText += text;
    return /^[[{]/.test(this.#jsonText) && this.#json.end(this.#jsonText) !== undefined;
  }
}
