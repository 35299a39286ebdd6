/**
 * The contract between an instance's HTTP server (runtime-image/server) and the engine behind it. One backend object lives in one
 * process and is never shared. All token counts are the engine's own.
 */

export interface ChatMessage {
  role: "system" | "developer" | "user" | "assistant" | "tool";
  content: string | null;
  name?: string;
  tool_calls?: ToolCall[];
  tool_call_id?: string;
}

export interface ToolCall {
  id: string;
  type: "function";
  /** `arguments` is JSON text, as in OpenAI's API. */
  function: { name: string; arguments: string };
}

export interface ToolDefinition {
  type: "function";
  function: { name: string; description?: string; parameters?: Record<string, unknown>; strict?: boolean };
}

/** `chat` goes through the model's chat template; `raw` is tokenised as it stands. */
export type Prompt =
  | {
      kind: "chat";
      messages: ChatMessage[];
      tools?: ToolDefinition[];
      /** A function's name forces a call of it. Default: `auto` when there are tools. */
      toolChoice?: "auto" | "none" | "required" | { name: string };
    }
  | { kind: "raw"; text: string };

export type ResponseFormat =
  | { type: "text" }
  | { type: "json_object" }
  | { type: "json_schema"; schema: Record<string, unknown> };

export interface Sampling {
  /** 0 is greedy. */
  temperature: number;
  topP: number;
  topK?: number;
  minP?: number;
  seed?: number;
  frequencyPenalty?: number;
  presencePenalty?: number;
}

export interface GenerateRequest {
  /** Unique per request; the key of its usage record. */
  requestId: string;
  /** The KV cache to continue. Absent: a one-off, whose cache is freed at the end. */
  sessionId?: string;
  prompt: Prompt;
  /** Most completion tokens. Absent: whatever the context leaves. */
  maxTokens?: number;
  /** Hard limit on prompt + completion tokens, from the reservation: refused before prefill when it leaves no room for one token. */
  maxTotalTokens?: number;
  /** Time this request may take from now, waiting included, in milliseconds. */
  timeoutMs: number;
  stop: string[];
  sampling: Sampling;
  responseFormat: ResponseFormat;
}

/** Tokens as the engine counted them. `cachedTokens` are the prompt tokens that were not evaluated again. */
export interface Usage {
  promptTokens: number;
  completionTokens: number;
  cachedTokens: number;
}

export type FinishReason = "stop" | "length" | "tool_calls";

/**
 * What a generation yields: one `prompt` once its tokens are counted and admitted, then `text` and `tool_call`, then one `done`.
 * `text.tokens` is how many tokens were generated since the event before (text may lag behind tokens: stop strings, UTF-8).
 * After an abort the usage is: prompt tokens of `prompt`, and the sum of `tokens` so far.
 */
export type GenerateEvent =
  | { type: "prompt"; promptTokens: number; cachedTokens: number }
  | { type: "text"; text: string; tokens: number }
  | { type: "tool_call"; index: number; call: ToolCall; tokens: number }
  | { type: "done"; finishReason: FinishReason; usage: Usage };

export interface BackendFacts {
  /** What answers as `model` and is listed by /v1/models. */
  modelName: string;
  /** The device that computes: `CPU`, `Metal (Apple M3)`, `NVIDIA H100 80GB HBM3`, `stub`. */
  device: string;
  /** Set when this is not what was asked for, such as a fall-back to the CPU. */
  warning?: string;
  contextTokens: number;
}

export interface LoadProgress {
  stage: "loading" | "warming-up";
  /** 0 to 1, where known. */
  fraction?: number;
}

/** One model in one process. Errors are LLMPoolError: `context_length_exceeded`, `invalid_request`, `budget_exhausted`, `request_timeout`. */
export interface LLMBackend {
  readonly facts: BackendFacts;
  /** One real inference; resolves with its speed. */
  warmup(prompt: string, signal: AbortSignal): Promise<{ seconds: number; tokensPerSecond: number }>;
  /** Ends by throwing `signal.reason` within one prefill chunk or token after an abort. Sessions run concurrently, turns of one session in order. */
  generate(request: GenerateRequest, options: { signal: AbortSignal }): AsyncIterable<GenerateEvent>;
  countTokens(prompt: Prompt): Promise<number>;
  /** A session's KV cache as bytes that `importSession` of an equal backend takes; `not_found` when there is none. */
  exportSession(sessionId: string): Promise<ReadableStream<Uint8Array>>;
  /** Refuses, with `invalid_request`, bytes that are damaged or come from another model or layout. */
  importSession(sessionId: string, data: ReadableStream<Uint8Array>): Promise<void>;
  /** Frees the cache in memory and on disk. True when there was one. */
  deleteSession(sessionId: string): Promise<boolean>;
  /** Threads this process may compute with from now on. */
  setThreads?(threads: number): void;
  /** For metrics and status. `kvUsage` is 0 to 1. */
  stats(): { sessions: number; kvUsage: number };
  close(): Promise<void>;
}
