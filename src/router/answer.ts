import type { ServerResponse } from "node:http";
import type { BudgetView } from "../core/store.ts";
import { type ErrorCode, LLMPoolError, toErrorBody } from "../lib/errors.ts";
import { atEndOfTurn } from "./turn.ts";

/** What the answer says about how it was made; sent as headers, or on the last chunk when the headers had to leave before it was known. */
export interface Served {
  requestId: string;
  instance?: string;
  role?: string;
  session?: string;
  queueMs?: number;
  rebound?: boolean;
  /** The limit that leaves least, as this call's reservation left it; absent where none applies. */
  budget?: BudgetView;
}

/** Up to this length an answer is copied once more rather than written separately, in bytes. */
const ONE_PIECE_BYTES = 16 * 1024;

/**
 * The caller's side of one inference call. Before the headers are out a failure is plain HTTP; after that it is one `data: {"error"}`
 * without `[DONE]`. Every write says whether the caller keeps up, and nothing is written after the end.
 */
export class Answer {
  readonly served: Served;
  /** The headers left before an instance had answered: late values go on the last chunk. */
  startedEarly = false;
  #res: ServerResponse;
  #ended = false;

  constructor(res: ServerResponse, requestId: string) {
    this.#res = res;
    this.served = { requestId };
  }

  get started(): boolean {
    return this.#res.headersSent;
  }
  get ended(): boolean {
    return this.#ended;
  }

  startStream(): void {
    this.#res.writeHead(200, [
      ...this.#servedHeaders(),
      "content-type",
      "text/event-stream; charset=utf-8",
      // Without these, proxies between here and the agent collect the stream before they pass it on.
      "cache-control",
      "no-cache, no-transform",
      "x-accel-buffering",
      "no",
    ]);
  }

  /** False: the caller is slower than the instance; wait for `onDrain`. */
  write(bytes: Buffer | string): boolean {
    if (this.#ended || this.#res.destroyed) return true;
    return this.#res.write(bytes);
  }

  onDrain(resume: () => void): void {
    this.#res.once("drain", resume);
  }

  /** Bytes that wait for a caller who does not read. */
  get unread(): number {
    return this.#res.writableLength;
  }

  endStream(bytes?: Buffer | string): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#res.end(bytes);
  }

  /** Leaves at the end of this turn. */
  json(status: number, body: Buffer): void {
    if (this.#ended) return;
    this.#ended = true;
    const headers = this.#servedHeaders();
    headers.push("content-type", "application/json", "content-length", String(body.length));
    this.#res.writeHead(status, headers);
    // Text leaves in one piece with the headers. Latin-1 is the same bytes, whatever they mean.
    atEndOfTurn(() => {
      if (body.length <= ONE_PIECE_BYTES) this.#res.end(body.toString("latin1"), "latin1");
      else this.#res.end(body);
    });
  }

  fail(error: unknown): ErrorCode {
    const { status, body, headers } = toErrorBody(error);
    if (this.#ended) return body.error.code;
    this.#ended = true;
    const text = JSON.stringify(body);
    if (this.#res.headersSent) {
      this.#res.end(`data: ${text}\n\n`);
      return body.error.code;
    }
    this.#res.writeHead(status, [
      ...this.#servedHeaders(),
      ...Object.entries(headers).flat(),
      "content-type",
      "application/json",
      "content-length",
      String(Buffer.byteLength(text)),
      // What is left of a body that was refused is not read: the connection cannot carry another request.
      ...(error instanceof LLMPoolError && error.code === "payload_too_large" ? ["connection", "close"] : []),
    ]);
    this.#res.end(text);
    return body.error.code;
  }

  /** Adds what the headers could not say to the last chunk of a stream, as `llmpool`. */
  withServed(frame: Buffer): Buffer {
    try {
      const chunk = JSON.parse(frame.toString("utf8", "data: ".length)) as Record<string, unknown>;
      const { instance, role, session, queueMs, rebound } = this.served;
      chunk.llmpool = { instance, role, session, queue_ms: queueMs, rebound };
      return Buffer.from(`data: ${JSON.stringify(chunk)}\n\n`);
    } catch {
      return frame;
    }
  }

  /** Cuts the connection: for a caller who does not read. */
  destroy(): void {
    this.#ended = true;
    this.#res.destroy();
  }

  #servedHeaders(): string[] {
    const { requestId, instance, role, session, queueMs, rebound, budget } = this.served;
    const headers = ["x-request-id", requestId];
    if (instance !== undefined) headers.push("x-llmpool-instance", instance);
    if (role !== undefined) headers.push("x-llmpool-role", role);
    if (session !== undefined) headers.push("x-llmpool-session", session);
    if (queueMs !== undefined) headers.push("x-llmpool-queue-ms", String(queueMs));
    if (rebound) headers.push("x-llmpool-rebound", "true");
    if (budget) pushRateLimit(headers, budget);
    return headers;
  }
}

/** OpenAI's names, so that SDKs and agents find them; the time to the next window as they write it, where there are windows. */
function pushRateLimit(headers: string[], { limit, spent, reserved, resetSeconds }: BudgetView): void {
  headers.push("x-ratelimit-limit-tokens", String(limit));
  headers.push("x-ratelimit-remaining-tokens", String(Math.max(0, limit - spent - reserved)));
  if (resetSeconds !== undefined) headers.push("x-ratelimit-reset-tokens", `${Math.ceil(resetSeconds)}s`);
}
