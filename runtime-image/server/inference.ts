import type { IncomingMessage, ServerResponse } from "node:http";
import type { GenerateRequest, LLMBackend } from "../../src/api/backend.ts";
import type { RequestRecord } from "../../src/api/instance.ts";
import {
  ChatRequest,
  CompletionRequest,
  maxTokensOf,
  promptOf,
  responseFormatOf,
  samplingOf,
  stopOf,
} from "../../src/api/openai.ts";
import type { QueueItem, Slot } from "../../src/core/queue.ts";
import type { Clock } from "../../src/lib/clock.ts";
import { LLMPoolError, messageOf } from "../../src/lib/errors.ts";
import type { Logger } from "../../src/lib/logger.ts";
import { type Answer, StreamAnswer, sendError, WholeAnswer } from "./answer.ts";
import { parseBody, readBody } from "./body.ts";
import { type CallHeaders, readHeaders } from "./headers.ts";
import type { ServerLimits } from "./limits.ts";
import type { InstanceMetrics } from "./metrics.ts";
import type { UsageRecords } from "./records.ts";
import { chatShape, type Shape, type ShapeOptions, textShape } from "./shapes.ts";
import type { Slots } from "./slots.ts";
import type { InstanceStatus } from "./status.ts";
import { slotOf } from "./wait.ts";
import { ClientGone, closeWhenIdle } from "./write.ts";

export interface InferenceDeps {
  status: InstanceStatus;
  slots: Slots;
  records: UsageRecords;
  metrics: InstanceMetrics;
  limits: ServerLimits;
  /** `spec.requestTimeoutSeconds`, the most that any request gets. */
  requestTimeoutMs: number;
  clock: Clock;
  log: Logger;
}

interface Route {
  schema: typeof ChatRequest | typeof CompletionRequest;
  shape: (options: ShapeOptions) => Shape;
}

export const CHAT: Route = { schema: ChatRequest, shape: chatShape };
export const COMPLETION: Route = { schema: CompletionRequest, shape: textShape };

/** Serves the two inference routes: from a request's headers to the last byte of its answer. */
export class Inference {
  readonly #deps: InferenceDeps;
  readonly #cuts = new Set<AbortController>();

  constructor(deps: InferenceDeps) {
    this.#deps = deps;
  }

  /** Ends every request now, with this error. */
  abortAll(error: LLMPoolError): void {
    for (const cut of this.#cuts) cut.abort(error);
  }

  /** Never rejects: whatever goes wrong is the answer, and a count in the metrics. */
  async serve(route: Route, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { clock, log, metrics, limits } = this.#deps;
    const cut = new AbortController();
    const onClose = () => cut.abort(new ClientGone("the client hung up"));
    response.once("close", onClose);
    this.#cuts.add(cut);
    const call = new Call(clock.now());
    let code = "ok";
    try {
      await this.#run(route, request, response, call, cut);
    } catch (error) {
      code = error instanceof ClientGone ? "aborted" : error instanceof LLMPoolError ? error.code : "internal_error";
      if (code === "internal_error")
        log.error("a request failed", { request: call.record?.id, error: messageOf(error) });
      if (call.record) this.#deps.records.close(call.record);
      if (code !== "aborted") {
        if (call.answer) call.answer.fail(error, call.record);
        else sendError(response, error);
      }
    } finally {
      call.cancelTimeout();
      this.#cuts.delete(cut);
      response.off("close", onClose);
      closeWhenIdle(response, clock, limits.writeIdleMs);
      metrics.requests.inc(1, { code });
    }
  }

  async #run(
    route: Route,
    request: IncomingMessage,
    response: ServerResponse,
    call: Call,
    cut: AbortController,
  ): Promise<void> {
    const { status, records, limits, clock } = this.#deps;
    status.forWork();
    const headers = readHeaders(request.headers);
    response.setHeader("x-request-id", headers.requestId);
    const timeoutMs = Math.min(headers.timeoutMs ?? Infinity, this.#deps.requestTimeoutMs);
    const expired = () =>
      new LLMPoolError("request_timeout", `the request did not end within its ${timeoutMs / 1000} s`);
    if (timeoutMs <= 0) throw expired();
    call.cancelTimeout = clock.after(timeoutMs, () => cut.abort(expired()));

    const body = parseBody(route.schema, await readBody(request, limits, clock, cut.signal));
    if ("logprobs" in body && body.logprobs) throw noLogprobs();
    // Asked again: a drain may have begun, and from here on the request is one that a drain waits for.
    const backend = status.forWork();
    const includeUsage = body.stream === true && body.stream_options?.include_usage === true;
    const shape = route.shape({
      requestId: headers.requestId,
      model: backend.facts.modelName,
      created: Math.floor(clock.wall() / 1000),
      includeUsage,
      callOnly: mustCall(body),
    });
    call.answer = body.stream
      ? new StreamAnswer(response, shape, { includeUsage, clock, writeIdleMs: limits.writeIdleMs, signal: cut.signal })
      : new WholeAnswer(response, shape);
    call.record = records.open(headers.requestId);
    const generate = toRequest(headers, body);
    const item = toItem(headers, timeoutMs, clock.now() - call.arrivedAt, clock.now(), cut.signal);
    const ticket = this.#deps.slots.ask(item, headers.queueLimit);
    const tells = headers.flow !== undefined;
    const slot = await (tells ? slotOf(ticket, response, clock, limits.positionMs) : ticket.slot);
    const remainingMs = Math.max(1, timeoutMs - (clock.now() - call.arrivedAt));
    const bounded = { ...generate, timeoutMs: remainingMs };
    await this.#generate(backend, bounded, slot, call.answer, call.record, call, cut.signal);
  }

  async #generate(
    backend: LLMBackend,
    request: GenerateRequest,
    slot: Slot,
    answer: Answer,
    record: RequestRecord,
    call: Call,
    signal: AbortSignal,
  ): Promise<void> {
    const { records, metrics, clock } = this.#deps;
    call.startedAt = clock.now();
    let finishReason: Parameters<Answer["end"]>[0] | undefined;
    try {
      for await (const event of backend.generate(request, { signal })) {
        if (event.type === "prompt") {
          record.prompt_tokens = event.promptTokens;
          record.cached_tokens = event.cachedTokens;
          continue;
        }
        if (event.type === "done") {
          record.prompt_tokens = event.usage.promptTokens;
          record.completion_tokens = event.usage.completionTokens;
          record.cached_tokens = event.usage.cachedTokens;
          finishReason = event.finishReason;
          this.#measure(call, record);
          continue;
        }
        record.completion_tokens += event.tokens;
        this.#observe(call, event.tokens);
        await answer.output(event);
      }
    } finally {
      // Before the answer's end: the next turn may begin, and whoever reads the end finds the record final.
      slot.release();
      records.close(record);
      metrics.promptTokens.inc(record.prompt_tokens);
      metrics.cachedTokens.inc(record.cached_tokens);
      metrics.completionTokens.inc(record.completion_tokens);
    }
    if (finishReason === undefined) throw new Error("the backend ended without a done event");
    answer.end(finishReason, record);
  }

  #observe(call: Call, tokens: number): void {
    const { clock, metrics } = this.#deps;
    const now = clock.now();
    if (call.tokenAt === undefined) {
      metrics.firstToken.observe((now - call.arrivedAt) / 1000);
      call.firstTokenMs = now - call.startedAt;
    } else if (tokens > 0) metrics.tokenGap.observe((now - call.tokenAt) / 1000 / tokens);
    call.tokenAt = now;
  }

  #measure(call: Call, { prompt_tokens, cached_tokens, completion_tokens }: RequestRecord): void {
    if (call.tokenAt === undefined) return;
    this.#deps.status.speed.observe({
      promptTokens: prompt_tokens,
      cachedTokens: cached_tokens,
      completionTokens: completion_tokens,
      firstTokenMs: call.firstTokenMs,
      totalMs: call.tokenAt - call.startedAt,
    });
  }
}

/** What is known about one request so far. */
class Call {
  readonly arrivedAt: number;
  answer: Answer | undefined;
  record: RequestRecord | undefined;
  /** When its latest token came. */
  tokenAt: number | undefined;
  /** When it got its slot. */
  startedAt = 0;
  /** From then to its first token. */
  firstTokenMs = 0;
  cancelTimeout: () => void = () => {};

  constructor(arrivedAt: number) {
    this.arrivedAt = arrivedAt;
  }
}

/** Its place among those who wait. `lateMs`: since it arrived. */
function toItem(
  { session, flow = "", episodeMs = Infinity, waitedMs = 0, prefillTokens = 0 }: CallHeaders,
  timeoutMs: number,
  lateMs: number,
  now: number,
  signal: AbortSignal,
): QueueItem {
  const byEpisode = episodeMs < timeoutMs;
  return {
    flow,
    deadline: now - lateMs + Math.min(episodeMs, timeoutMs),
    deadlineCode: byEpisode ? "episode_deadline_exceeded" : "request_timeout",
    prefillTokens,
    waitedMs: waitedMs + lateMs,
    signal: () => signal,
    ...(session !== undefined && { session }),
  };
}

/** No engine behind this server has them. */
function noLogprobs(): LLMPoolError {
  const words =
    "this instance's engine gives no log probabilities: leave logprobs out, or use a pool of backend hf-cuda";
  return new LLMPoolError("invalid_request", words, { param: "logprobs" });
}

function mustCall(body: ChatRequest | CompletionRequest): boolean {
  const choice = "tool_choice" in body ? (body.tool_choice ?? "auto") : "auto";
  return choice !== "auto" && choice !== "none";
}

function toRequest(headers: CallHeaders, body: ChatRequest | CompletionRequest): Omit<GenerateRequest, "timeoutMs"> {
  const maxTokens = maxTokensOf(body);
  return {
    requestId: headers.requestId,
    prompt: promptOf(body),
    stop: stopOf(body),
    sampling: samplingOf(body),
    responseFormat: responseFormatOf(body),
    ...(headers.session !== undefined && { sessionId: headers.session }),
    ...(maxTokens !== undefined && { maxTokens }),
    ...(headers.maxTotalTokens !== undefined && { maxTotalTokens: headers.maxTotalTokens }),
  };
}
