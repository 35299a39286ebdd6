import { basename } from "node:path";
import type { LlamaGrammarEvaluationState, Token } from "node-llama-cpp";
import type { BackendFacts, GenerateEvent, GenerateRequest, LLMBackend, Prompt } from "../../src/api/backend.ts";
import type { InstanceConfig } from "../../src/api/instance.ts";
import type { Clock } from "../../src/lib/clock.ts";
import { LLMPoolError, messageOf } from "../../src/lib/errors.ts";
import type { BackendDeps } from "../factory.ts";
import { Answer } from "./answer.ts";
import { ChunkSizer } from "./chunk-sizer.ts";
import type { Engine } from "./engine.ts";
import type { Prompts } from "./prompt.ts";
import { forcedTools, grammarOf, grammarState, offeredTools, samplingOptions } from "./sampling.ts";
import type { SavedSessions } from "./saved-sessions.ts";
import { Scheduler, type Step } from "./scheduler.ts";
import { type Lease, Sessions } from "./sessions.ts";

const WARMUP_TOKENS = 8;
/** How long `close` waits for aborted requests to notice. */
const CLOSE_WAIT_MS = 5_000;

export interface LlamaCppDeps extends BackendDeps {
  /** 0 to 1: seeds of requests that bring none. */
  random?: () => number;
  /** Told each step of the engine (tests). */
  trace?: (step: Step) => void;
}

/** One loaded model: takes requests from prompt to usage. */
export class LlamaCppBackend implements LLMBackend {
  readonly facts: BackendFacts;
  readonly #engine: Engine;
  readonly #prompts: Prompts;
  readonly #sessions: Sessions;
  readonly #scheduler: Scheduler;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #closing = new AbortController();
  #closed: Promise<void> | undefined;

  constructor(config: InstanceConfig, deps: LlamaCppDeps, engine: Engine, prompts: Prompts, saved: SavedSessions) {
    const { clock } = deps;
    this.#engine = engine;
    this.#prompts = prompts;
    this.#clock = clock;
    this.#random = deps.random ?? Math.random;
    this.#sessions = new Sessions(engine.sequences, saved, clock, config.sessionTTLSeconds * 1000);
    this.#scheduler = new Scheduler(new ChunkSizer(engine.context.batchSize), () => clock.now(), deps.trace);
    this.facts = {
      modelName: config.modelName ?? basename(engine.file.path).replace(/[.]gguf$/i, ""),
      device: engine.device,
      ...(engine.warning !== undefined && { warning: engine.warning }),
      contextTokens: config.contextTokens,
    };
  }

  async warmup(prompt: string, signal: AbortSignal): Promise<{ seconds: number; tokensPerSecond: number }> {
    const began = this.#clock.now();
    const request: GenerateRequest = {
      requestId: "warmup",
      prompt: this.#prompts.chat
        ? { kind: "chat", messages: [{ role: "user", content: prompt }] }
        : { kind: "raw", text: prompt },
      maxTokens: WARMUP_TOKENS,
      timeoutMs: 2 ** 31 - 1,
      stop: [],
      sampling: { temperature: 0, topP: 1 },
      responseFormat: { type: "text" },
    };
    let [first, last, tokens] = [0, 0, 0];
    for await (const event of this.generate(request, { signal })) {
      if (event.type !== "text") continue;
      last = this.#clock.now();
      if (tokens === 0) first = last;
      tokens += event.tokens;
    }
    const seconds = (this.#clock.now() - began) / 1000;
    // Of the tokens after the first, which has the prompt's time in it; a model that says only one word has no others.
    const tokensPerSecond =
      tokens > 1 && last > first
        ? ((tokens - 1) * 1000) / (last - first)
        : Math.max(1, tokens) / Math.max(seconds, 1e-3);
    return { seconds, tokensPerSecond };
  }

  generate(request: GenerateRequest, { signal }: { signal: AbortSignal }): AsyncIterable<GenerateEvent> {
    return this.#generate(request, signal, this.#clock.now() + request.timeoutMs);
  }

  async *#generate(
    request: GenerateRequest,
    signal: AbortSignal,
    deadline: number,
  ): AsyncGenerator<GenerateEvent, void> {
    const timeout = new AbortController();
    const cancelTimeout = this.#clock.after(deadline - this.#clock.now(), () => {
      timeout.abort(new LLMPoolError("request_timeout", `the request took longer than its ${request.timeoutMs} ms`));
    });
    const all = AbortSignal.any([signal, timeout.signal, this.#closing.signal]);
    try {
      all.throwIfAborted();
      const prompt = this.#prompts.tokens(request.prompt);
      const most = this.#mostTokens(request, prompt.length);
      const hermes = this.#prompts.chat?.hermesCalls ?? false;
      const grammar = await grammarState(grammarOf(request, hermes), this.#engine.llama, this.#engine.model);
      const lease = await this.#sessions.acquire(request.sessionId, all);
      let broken = false;
      try {
        yield* this.#answer(request, prompt, most, lease, { grammar, signal: all });
      } catch (error) {
        // After an abort the cache holds whole tokens and stays good; after anything else nothing in it can be trusted.
        broken = !all.aborted;
        throw all.aborted ? error : engineFailed(error);
      } finally {
        await lease.release(broken);
      }
    } finally {
      cancelTimeout();
    }
  }

  async *#answer(
    request: GenerateRequest,
    prompt: readonly Token[],
    most: number,
    lease: Lease,
    { grammar, signal }: { grammar: LlamaGrammarEvaluationState | undefined; signal: AbortSignal },
  ): AsyncGenerator<GenerateEvent, void> {
    const { sequence } = lease;
    const label = request.requestId;
    // The last token of the prompt is always evaluated: the first of the answer is sampled from it.
    const cachedTokens = await sequence.cut(Math.min(sequence.sharedWith(prompt), prompt.length - 1));
    yield { type: "prompt", promptTokens: prompt.length, cachedTokens };

    const fresh = prompt.slice(cachedTokens, -1);
    await this.#scheduler.prefill(label, fresh.length, (from, to) => sequence.append(fresh.slice(from, to)), signal);

    const tokens: Token[] = [];
    const options = samplingOptions(request, tokens, Math.floor(this.#random() * 2 ** 31));
    const [last] = prompt.slice(-1);
    if (last === undefined) throw new Error("the prompt is empty");
    const steps = sequence.sample(last, { ...options, ...(grammar && { grammarEvaluationState: grammar }) });
    const answer = this.#newAnswer(request, grammar !== undefined);
    let ended: "stop" | "length" | undefined;
    let untold = 0;
    try {
      while (ended === undefined) {
        const step = await this.#scheduler.decode(label, () => steps.next(), signal);
        if (step.done) throw new Error("the engine ended the answer");
        tokens.push(step.value);
        if (this.#engine.model.isEogToken(step.value)) {
          ended = "stop";
          untold = 1;
        } else {
          const { events, over } = answer.push(step.value);
          yield* events;
          if (over) ended = "stop";
          else if (tokens.length >= most) ended = "length";
        }
      }
    } finally {
      await steps.return();
    }
    yield* answer.end(untold);
    const usage = { promptTokens: prompt.length, completionTokens: tokens.length, cachedTokens };
    yield { type: "done", finishReason: answer.finishReason(ended), usage };
  }

  /** @param form whether a grammar holds the answer. */
  #newAnswer(request: GenerateRequest, form: boolean): Answer {
    const { model } = this.#engine;
    return new Answer({
      requestId: request.requestId,
      // A text within JSON is not the end of it.
      stop: form ? [] : request.stop,
      tools: offeredTools(request).map((tool) => tool.function.name),
      json: form,
      callOnly: forcedTools(request) !== undefined,
      detokenize: (tokens, before) => model.detokenize(tokens as Token[], false, before as Token[]),
    });
  }

  /** Most tokens of the answer: the end token counts, as it was sampled. */
  #mostTokens(request: GenerateRequest, promptTokens: number): number {
    const { maxTokens = Number.POSITIVE_INFINITY, maxTotalTokens = Number.POSITIVE_INFINITY } = request;
    if (maxTokens < 1)
      throw new LLMPoolError("invalid_request", "max_tokens must be at least 1", { param: "max_tokens" });
    if (maxTotalTokens <= promptTokens) {
      throw new LLMPoolError(
        "budget_exhausted",
        `the prompt has ${promptTokens} tokens, and ${maxTotalTokens} are reserved for prompt and answer together`,
      );
    }
    return Math.min(maxTokens, maxTotalTokens - promptTokens, this.facts.contextTokens - promptTokens);
  }

  async countTokens(prompt: Prompt): Promise<number> {
    return this.#prompts.tokens(prompt).length;
  }

  async exportSession(sessionId: string): Promise<ReadableStream<Uint8Array>> {
    const stream = await this.#sessions.export(sessionId);
    if (!stream) throw new LLMPoolError("not_found", "there is no such session on this instance");
    return stream;
  }

  importSession(sessionId: string, data: ReadableStream<Uint8Array>): Promise<void> {
    return this.#sessions.import(sessionId, data);
  }

  deleteSession(sessionId: string): Promise<boolean> {
    return this.#sessions.delete(sessionId);
  }

  /** From the next batch on. */
  setThreads(threads: number): void {
    this.#engine.llama.maxThreads = Math.max(1, Math.floor(threads));
  }

  stats(): { sessions: number; kvUsage: number; free: number; busy: number } {
    const { sessions, tokens, free, busy } = this.#sessions.stats();
    return { sessions, free, busy, kvUsage: tokens / (this.facts.contextTokens * this.#engine.sequences.length) };
  }

  close(): Promise<void> {
    this.#closed ??= this.#shutDown();
    return this.#closed;
  }

  async #shutDown(): Promise<void> {
    this.#closing.abort(new LLMPoolError("instance_unavailable", "the instance is shutting down"));
    // A reader that takes no more events cannot keep the process alive.
    await Promise.race([this.#sessions.close(), new Promise<void>((done) => this.#clock.after(CLOSE_WAIT_MS, done))]);
    await this.#scheduler.idle();
    await this.#engine.close();
  }
}

const engineFailed = (error: unknown): LLMPoolError =>
  new LLMPoolError("internal_error", `the engine failed: ${messageOf(error)}`, { cause: error });
