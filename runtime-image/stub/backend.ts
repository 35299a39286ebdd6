import { createHash } from "node:crypto";
import type { BackendFacts, GenerateEvent, GenerateRequest, LLMBackend, Prompt } from "../../src/api/backend.ts";
import type { InstanceConfig } from "../../src/api/instance.ts";
import { countStubPrompt, stubPromptTokens } from "../../src/core/stub-tokenizer.ts";
import type { Clock } from "../../src/lib/clock.ts";
import { LLMPoolError } from "../../src/lib/errors.ts";
import { sleep } from "../../src/lib/sleep.ts";
import type { BackendDeps } from "../factory.ts";
import { Caches, commonPrefix } from "./cache.ts";
import { type Behaviour, isUnlucky, readBehaviour } from "./directives.ts";
import { strikeAtStart, strikeAtToken } from "./faults.ts";
import { planReply } from "./reply.ts";
import { decodeState, encodeState, MAX_STATE_BYTES } from "./state.ts";

/** Without latency a long answer would keep the event loop to itself. */
const TOKENS_PER_TURN = 32;

type StubConfig = Pick<InstanceConfig, "contextTokens" | "sessions" | "sessionTTLSeconds" | "stateDir" | "stub">;

export function createBackend(config: StubConfig, { clock }: Pick<BackendDeps, "clock">): Promise<LLMBackend> {
  return Promise.resolve(new StubBackend(config, clock));
}

/** The simulator: no model, answers that docs/stub.md lets anyone predict to the token, settable latency and faults. */
class StubBackend implements LLMBackend {
  readonly facts: BackendFacts;
  readonly #config: StubConfig;
  readonly #clock: Clock;
  readonly #caches: Caches;

  constructor(config: StubConfig, clock: Clock) {
    this.#config = config;
    this.#clock = clock;
    this.#caches = new Caches({
      capacity: config.sessions,
      ttlMs: config.sessionTTLSeconds * 1000,
      stateDir: config.stateDir,
      clock,
    });
    this.facts = { modelName: "stub", device: "stub", contextTokens: config.contextTokens };
  }

  async warmup(prompt: string, signal: AbortSignal): Promise<{ seconds: number; tokensPerSecond: number }> {
    const start = this.#clock.now();
    const request: GenerateRequest = {
      requestId: "warmup",
      prompt: { kind: "raw", text: prompt },
      timeoutMs: Infinity,
      stop: [],
      sampling: { temperature: 0, topP: 1 },
      responseFormat: { type: "text" },
    };
    let tokens = 0;
    // A simulated failure of requests is none of the start.
    for await (const event of this.#run(
      request,
      { ...this.#config.stub, errorRate: 0, recall: false },
      prompt,
      signal,
    )) {
      if (event.type === "done") tokens = event.usage.completionTokens;
    }
    const seconds = (this.#clock.now() - start) / 1000;
    return { seconds, tokensPerSecond: tokens / Math.max(seconds, 0.001) };
  }

  generate(request: GenerateRequest, { signal }: { signal: AbortSignal }): AsyncIterable<GenerateEvent> {
    const { text, behaviour } = readBehaviour(request.prompt, this.#config.stub);
    return this.#run(request, behaviour, text, signal);
  }

  async *#run(
    request: GenerateRequest,
    behaviour: Behaviour,
    text: string,
    signal: AbortSignal,
  ): AsyncGenerator<GenerateEvent> {
    signal.throwIfAborted();
    const prompt = stubPromptTokens(request.prompt);
    const promptTokens = prompt.length;
    const room = this.#room(request, promptTokens);
    const { cache, release } = this.#caches.hold(request.sessionId);
    try {
      const recalled = behaviour.recall ? cache.tokens.join("") : undefined;
      const reply = planReply(request, {
        text,
        length: behaviour.replyTokens,
        room,
        ...(recalled !== undefined && { recalled }),
      });
      if (isUnlucky(request.requestId, behaviour.errorRate)) throw new Error("simulated failure");
      await strikeAtStart(behaviour);
      // As in a real engine, the last prompt token is evaluated again to get the first logits.
      const cachedTokens = Math.min(commonPrefix(cache.tokens, prompt), Math.max(0, promptTokens - 1));
      cache.tokens = prompt;
      yield { type: "prompt", promptTokens, cachedTokens };
      await this.#wait(behaviour.ttftMs, signal);
      for (const [i, { token, text }] of reply.tokens.entries()) {
        if (i > 0) await this.#wait(behaviour.interTokenMs, signal);
        if (i % TOKENS_PER_TURN === TOKENS_PER_TURN - 1) await new Promise((resolve) => setImmediate(resolve));
        signal.throwIfAborted();
        await strikeAtToken(behaviour, i, signal);
        cache.tokens.push(token);
        const last = i === reply.tokens.length - 1;
        if (reply.call && last) yield { type: "tool_call", index: 0, call: toolCall(request, reply.call), tokens: 1 };
        else yield { type: "text", text, tokens: 1 };
      }
      const usage = { promptTokens, completionTokens: reply.tokens.length, cachedTokens };
      yield { type: "done", finishReason: reply.finishReason, usage };
    } finally {
      release();
    }
  }

  countTokens(prompt: Prompt): Promise<number> {
    return Promise.resolve(countStubPrompt(prompt));
  }

  async exportSession(sessionId: string): Promise<ReadableStream<Uint8Array>> {
    const tokens = this.#caches.read(sessionId);
    if (!tokens) throw new LLMPoolError("not_found", "this instance holds no such session");
    return new Blob([new Uint8Array(encodeState(tokens))]).stream();
  }

  async importSession(sessionId: string, data: ReadableStream<Uint8Array>): Promise<void> {
    const parts: Uint8Array[] = [];
    let bytes = 0;
    for await (const part of data) {
      bytes += part.length;
      if (bytes > MAX_STATE_BYTES) throw new LLMPoolError("payload_too_large", "the session is larger than any stub's");
      parts.push(part);
    }
    const tokens = decodeState(Buffer.concat(parts));
    if (tokens.length > this.#config.contextTokens) {
      throw new LLMPoolError(
        "invalid_request",
        `the session holds ${tokens.length} tokens, the context ${this.#config.contextTokens}`,
      );
    }
    this.#caches.put(sessionId, tokens);
  }

  deleteSession(sessionId: string): Promise<boolean> {
    return Promise.resolve(this.#caches.delete(sessionId));
  }

  stats(): { sessions: number; kvUsage: number } {
    const { sessions, tokens } = this.#caches.stats();
    return { sessions, kvUsage: Math.min(1, tokens / (this.#config.sessions * this.#config.contextTokens)) };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  /** Most tokens that may be generated, at least 1. */
  #room(request: GenerateRequest, promptTokens: number): number {
    const { contextTokens } = this.#config;
    if (promptTokens >= contextTokens) {
      throw new LLMPoolError(
        "context_length_exceeded",
        `the prompt has ${promptTokens} tokens, and the context holds ${contextTokens} with at least one for the answer: shorten it`,
        { param: request.prompt.kind === "raw" ? "prompt" : "messages" },
      );
    }
    const limit = request.maxTotalTokens ?? Infinity;
    if (promptTokens >= limit) {
      throw new LLMPoolError(
        "budget_exhausted",
        `the prompt has ${promptTokens} tokens, and ${limit} are reserved for prompt and answer`,
      );
    }
    return Math.min(request.maxTokens ?? Infinity, contextTokens - promptTokens, limit - promptTokens);
  }

  async #wait(ms: number, signal: AbortSignal): Promise<void> {
    if (ms > 0) await sleep(this.#clock, ms, signal);
  }
}

function toolCall(request: GenerateRequest, call: { name: string; arguments: string }) {
  const id = `call_${createHash("sha256").update(request.requestId).digest("hex").slice(0, 24)}`;
  return { id, type: "function" as const, function: call };
}
