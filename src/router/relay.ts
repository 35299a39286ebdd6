import type { IncomingHttpHeaders } from "node:http";
import type { Dispatcher } from "undici";
import type { Usage } from "../api/backend.ts";
import { POSITION_HEADER, type RequestRecord } from "../api/instance.ts";
import { ERRORS, type ErrorCode, type ErrorDetail, LLMPoolError, messageOf } from "../lib/errors.ts";
import type { Answer } from "./answer.ts";
import { NoConnectionError } from "./connections.ts";
import { type Frame, FrameSplitter } from "./sse.ts";
import { usageOf } from "./upstream.ts";

/**
 * How one attempt at one instance ended.
 * - answered: the caller has the whole answer; `usage` is the instance's count.
 * - refused: the instance said no before its first token, and nobody has seen a byte of it. `usage` undefined: somebody on the way said
 *   no, and the instance may have begun.
 * - unreachable: no connection, or it was lost before the first byte: another attempt is safe. `sent`: the instance may have begun.
 * - broken: the answer ended in the middle. `usage` is known when the instance itself reported the failure; `lost`: its connection was.
 * - aborted: we cut it off; the instance knows the usage.
 */
export type Outcome =
  | { kind: "answered"; usage: Usage }
  | { kind: "refused"; error: LLMPoolError; usage: Usage | null | undefined }
  | { kind: "unreachable"; cause: Error; sent: boolean }
  | { kind: "broken"; error: LLMPoolError; usage: Usage | undefined; lost: boolean }
  | { kind: "aborted" };

/** Turns an instance's JSON answer or content frame into what this route answers. Identity for the OpenAI routes. */
export interface Translation {
  json(body: Buffer): Buffer;
  frame(frame: Buffer): Buffer | undefined;
}

/** Longest JSON answer of an instance, in bytes. */
const MAX_JSON_BYTES = 64 * 1024 * 1024;

/** Carries one instance's answer to one caller. Made per attempt; `outcome` resolves exactly once, after the last byte. */
export class Relay implements Dispatcher.DispatchHandler {
  readonly outcome: Promise<Outcome>;
  readonly #answer: Answer;
  readonly #translation: Translation | undefined;
  readonly #onToken: () => void;
  readonly #onPosition: (position: number) => void;
  readonly #splitter = new FrameSplitter();
  #settle: (outcome: Outcome) => void = () => {};
  #controller: Dispatcher.DispatchController | undefined;
  #aborted = false;
  #status = 0;
  /** In seconds; NaN where the instance does not say. */
  #retryAfter = Number.NaN;
  #stream = false;
  #body: Buffer[] = [];
  #bodyBytes = 0;
  #usage: Usage | undefined;
  #failed: LLMPoolError | undefined;
  #done = false;
  /** The latest content frame, held back so that the last one can be told from the others. */
  #held: Buffer | undefined;

  /** `onToken`: a frame with model output went by. `onPosition`: the place in the instance's line; 0: it waits no more. */
  constructor(
    answer: Answer,
    onToken: () => void,
    onPosition: (position: number) => void,
    translation: Translation | undefined,
  ) {
    this.#answer = answer;
    this.#onToken = onToken;
    this.#onPosition = onPosition;
    this.#translation = translation;
    this.outcome = new Promise((resolve) => {
      this.#settle = resolve;
    });
  }

  /** Ends the attempt now. The instance notices by its closed connection. */
  abort(): void {
    if (this.#aborted) return;
    this.#aborted = true;
    this.#controller?.abort(new Error("aborted by the router"));
    // Without a controller the request has not left yet; onRequestStart will end it.
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    if (this.#aborted) controller.abort(new Error("aborted by the router"));
  }

  onResponseStart(_controller: Dispatcher.DispatchController, status: number, headers: IncomingHttpHeaders): void {
    if (status < 200) {
      const position = Number(headers[POSITION_HEADER] ?? Number.NaN);
      if (Number.isInteger(position)) this.#onPosition(position);
      return;
    }
    this.#status = status;
    this.#retryAfter = Number(headers["retry-after"]);
    this.#stream = status === 200 && String(headers["content-type"]).startsWith("text/event-stream");
    if (status !== 200) return;
    if (this.#stream && !this.#answer.started) this.#answer.startStream();
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#stream) {
      // Once, however many pieces were on their way already.
      if (!this.#relay(this.#splitter.push(chunk)) && !controller.paused) {
        controller.pause();
        this.#answer.onDrain(() => controller.resume());
      }
      return;
    }
    this.#bodyBytes += chunk.length;
    if (this.#bodyBytes > MAX_JSON_BYTES) throw new Error("an instance sent an answer above 64 MiB");
    this.#body.push(chunk);
  }

  onResponseEnd(): void {
    if (this.#stream) this.#endStream();
    else if (this.#status === 200) this.#endJson();
    else this.#endRefusal();
  }

  onResponseError(_controller: Dispatcher.DispatchController, cause: Error): void {
    this.#writeHeld();
    if (this.#aborted) this.#settle({ kind: "aborted" });
    else if (this.#status === 0) {
      this.#settle({ kind: "unreachable", cause, sent: !(cause instanceof NoConnectionError) });
    } else this.#settle({ kind: "broken", error: broken(cause), usage: undefined, lost: true });
  }

  /** False when the caller does not keep up. */
  #relay(frames: Frame[]): boolean {
    let keepsUp = true;
    for (const frame of frames) {
      switch (frame.kind) {
        case "content": {
          this.#onToken();
          const bytes = this.#translation ? this.#translation.frame(frame.bytes) : frame.bytes;
          if (!bytes) break;
          if (this.#answer.startedEarly) {
            if (this.#held) keepsUp = this.#answer.write(this.#held);
            this.#held = bytes;
          } else keepsUp = this.#answer.write(bytes);
          break;
        }
        case "comment":
          keepsUp = this.#answer.write(frame.bytes);
          break;
        case "usage":
          this.#usage = usageOf(JSON.parse(frame.json) as RequestRecord);
          break;
        case "error":
          this.#failed = errorOf(200, frame.bytes.subarray("data: ".length));
          break;
        case "done":
          this.#writeHeld();
          this.#done = true;
          this.#answer.write(frame.bytes);
          break;
      }
    }
    return keepsUp;
  }

  /** It is the last one: what the headers could not say goes with it. */
  #writeHeld(): void {
    if (this.#held) this.#answer.write(this.#answer.withServed(this.#held));
    this.#held = undefined;
  }

  #endStream(): void {
    this.#writeHeld();
    if (this.#done && this.#usage) {
      this.#answer.endStream();
      this.#settle({ kind: "answered", usage: this.#usage });
      return;
    }
    const error = this.#failed ?? broken(new Error("the stream ended without [DONE]"));
    this.#settle({ kind: "broken", error, usage: this.#usage, lost: false });
  }

  #endJson(): void {
    const body = this.#body.length === 1 && this.#body[0] ? this.#body[0] : Buffer.concat(this.#body);
    try {
      const usage = usageOfBody(JSON.parse(body.toString()) as { usage?: OpenAIUsage });
      if (!usage) throw new Error("no usage in the answer");
      const bytes = this.#translation ? this.#translation.json(body) : body;
      // A caller who hung up in this very moment gets nothing, but the tokens are counted all the same.
      this.#answer.json(200, bytes);
      this.#settle({ kind: "answered", usage });
    } catch (cause) {
      this.#settle({ kind: "broken", error: broken(cause), usage: undefined, lost: false });
    }
  }

  #endRefusal(): void {
    const body = Buffer.concat(this.#body);
    const error = errorOf(this.#status, body, this.#retryAfter);
    const usage = usageOfBody(parse(body)) ?? (isOwn(body) ? null : undefined);
    this.#settle({ kind: "refused", error, usage });
  }
}

interface OpenAIUsage {
  prompt_tokens: number;
  completion_tokens: number;
  prompt_tokens_details?: { cached_tokens?: number };
}

function usageOfBody(body: { usage?: OpenAIUsage | null } | undefined): Usage | undefined {
  const usage = body?.usage;
  if (!usage) return undefined;
  return {
    promptTokens: usage.prompt_tokens,
    completionTokens: usage.completion_tokens,
    cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
  };
}

/** In the words of the instance protocol. */
function isOwn(body: Buffer): boolean {
  const code = (parse(body) as { error?: { code?: unknown } } | undefined)?.error?.code;
  return typeof code === "string" && code in ERRORS;
}

/** An instance's own error keeps its code and text; a fault of the instance, and whatever else it says, is `upstream_error`. */
function errorOf(status: number, body: Buffer, retryAfterSeconds = Number.NaN): LLMPoolError {
  const error = (parse(body) as { error?: { code?: unknown; message?: unknown; param?: unknown } } | undefined)?.error;
  const code = error?.code;
  if (typeof code !== "string" || !(code in ERRORS)) {
    return new LLMPoolError("upstream_error", `the instance answered ${status}`);
  }
  const message = typeof error?.message === "string" ? error.message : code;
  // Ours would be the router's: not to be sent again, and nothing that its log tells of.
  if (code === "internal_error") return new LLMPoolError("upstream_error", `the instance failed: ${message}`);
  const detail: ErrorDetail = {};
  if (typeof error?.param === "string") detail.param = error.param;
  if (retryAfterSeconds > 0) detail.retryAfterSeconds = retryAfterSeconds;
  return new LLMPoolError(code as ErrorCode, message, detail);
}

function parse(body: Buffer): { usage?: OpenAIUsage } | undefined {
  try {
    return JSON.parse(body.toString()) as { usage?: OpenAIUsage };
  } catch {
    return undefined;
  }
}

function broken(cause: unknown): LLMPoolError {
  return new LLMPoolError("upstream_error", `the instance broke off its answer (${messageOf(cause)})`, { cause });
}
