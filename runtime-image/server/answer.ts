import type { ServerResponse } from "node:http";
import type { FinishReason, GenerateEvent, ToolCall } from "../../src/api/backend.ts";
import { type RequestRecord, USAGE_COMMENT } from "../../src/api/instance.ts";
import type { Clock } from "../../src/lib/clock.ts";
import { toErrorBody } from "../../src/lib/errors.ts";
import { usageOf } from "./records.ts";
import { type Shape, usageObject } from "./shapes.ts";
import { drained } from "./write.ts";

export type Output = Extract<GenerateEvent, { type: "text" | "tool_call" }>;

/** Where a generation's output goes. Nothing leaves before the first `output`, so that an error until then is plain HTTP. */
export interface Answer {
  /** Takes the next output; waits while the client does not keep up. */
  output(event: Output): Promise<void>;
  /** The whole answer is there, and `record` is final. */
  end(finishReason: FinishReason, record: RequestRecord): void;
  /** It failed, before or after the first output; `record` is final, and absent if the request was refused before it had one. */
  fail(error: unknown, record: RequestRecord | undefined): void;
}

/** One JSON body at the end. */
export class WholeAnswer implements Answer {
  readonly #response: ServerResponse;
  readonly #shape: Shape;
  #text = "";
  readonly #calls: ToolCall[] = [];

  constructor(response: ServerResponse, shape: Shape) {
    this.#response = response;
    this.#shape = shape;
  }

  output(event: Output): Promise<void> {
    if (event.type === "text") this.#text += event.text;
    else this.#calls.push(event.call);
    return Promise.resolve();
  }

  end(finishReason: FinishReason, record: RequestRecord): void {
    sendJson(this.#response, 200, this.#shape.whole(this.#text, this.#calls, finishReason, usageOf(record)));
  }

  fail(error: unknown, record: RequestRecord | undefined): void {
    sendError(this.#response, error, besideOf(record));
  }
}

export interface StreamOptions {
  includeUsage: boolean;
  clock: Clock;
  writeIdleMs: number;
  signal: AbortSignal;
}

/** Server-sent events: a frame per output, the usage comment, `[DONE]`. */
export class StreamAnswer implements Answer {
  readonly #response: ServerResponse;
  readonly #shape: Shape;
  readonly #options: StreamOptions;

  constructor(response: ServerResponse, shape: Shape, options: StreamOptions) {
    this.#response = response;
    this.#shape = shape;
    this.#options = options;
  }

  async output(event: Output): Promise<void> {
    const opening = this.#open();
    const frame =
      event.type === "tool_call"
        ? this.#shape.toolCall(event.index, event.call)
        : event.text === ""
          ? ""
          : this.#shape.text(event.text);
    if (opening === "" && frame === "") return;
    if (!this.#response.write(opening + frame)) {
      const { clock, writeIdleMs, signal } = this.#options;
      await drained(this.#response, clock, writeIdleMs, signal);
    }
  }

  end(finishReason: FinishReason, record: RequestRecord): void {
    const usage = this.#options.includeUsage ? this.#shape.usage(usageOf(record)) : "";
    this.#response.end(`${this.#open()}${this.#shape.last(finishReason)}${usage}${usageFrame(record)}data: [DONE]\n\n`);
  }

  fail(error: unknown, record: RequestRecord | undefined): void {
    if (!this.#response.headersSent) {
      sendError(this.#response, error, besideOf(record));
      return;
    }
    const frame = `data: ${JSON.stringify(toErrorBody(error).body)}\n\n`;
    this.#response.end(record ? usageFrame(record) + frame : frame);
  }

  /** Sends the headers, once; what belongs in front of the first frame. */
  #open(): string {
    if (this.#response.headersSent) return "";
    this.#response.writeHead(200, {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache, no-transform",
      "x-accel-buffering": "no",
    });
    return this.#shape.first();
  }
}

export function sendJson(
  response: ServerResponse,
  status: number,
  body: object,
  headers: Record<string, string> = {},
): void {
  const bytes = Buffer.from(JSON.stringify(body));
  response
    .writeHead(status, { "content-type": "application/json", "content-length": bytes.length, ...headers })
    .end(bytes);
}

/** The error's own status; beside it what the request has used, or who answers. */
export function sendError(response: ServerResponse, error: unknown, beside: object = {}): void {
  const { status, body, headers } = toErrorBody(error);
  sendJson(response, status, { ...body, ...beside }, headers);
}

function besideOf(record: RequestRecord | undefined): object {
  return record ? { usage: usageObject(usageOf(record)) } : {};
}

function usageFrame(record: RequestRecord): string {
  return `${USAGE_COMMENT}${JSON.stringify(record)}\n\n`;
}
