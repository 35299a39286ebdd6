import { Agent, type Dispatcher } from "undici";
import type { ChatMessage, FinishReason, Usage } from "../api/backend.ts";
import type { UsageObject } from "../api/http.ts";
import { INSTANCE_HEADERS } from "../api/instance.ts";
import { type ErrorBody, LLMPoolError, messageOf } from "../lib/errors.ts";
import { dataEvents } from "./event-stream.ts";

/** One generation, as the instance protocol takes it. */
export interface InstanceCall {
  sessionId: string | undefined;
  messages: readonly ChatMessage[];
  maxNewTokens: number | undefined;
  timeoutMs: number;
  stop: readonly string[];
  temperature: number | undefined;
  seed: number | undefined;
  signal: AbortSignal | undefined;
}

export type InstanceEvent = { type: "text"; text: string } | { type: "done"; finishReason: FinishReason; usage: Usage };

/** After its own time limit an instance says so itself; this much later it is taken for lost. */
const OVERTIME_MS = 5000;

/** The part of an OpenAI stream chunk that is read here. */
interface Chunk {
  choices?: { delta?: { content?: string | null }; finish_reason?: FinishReason | null }[];
  usage?: UsageObject | null;
}

/** Speaks the instance protocol with all instances of one pool. */
export class InstanceClient {
  /** The instance's time limit rules; a silent prefill is no fault. */
  readonly #agent = new Agent({ headersTimeout: 0, bodyTimeout: 0, pipelining: 1 });
  readonly #token: string;

  constructor(token: string) {
    this.#token = token;
  }

  /** Text as it comes, then one `done`. Ending the iteration early ends the generation. Throws LLMPoolError, or the signal's reason. */
  async *chat(url: string, call: InstanceCall): AsyncGenerator<InstanceEvent, void> {
    const overtime = AbortSignal.timeout(call.timeoutMs + OVERTIME_MS);
    const signal = AbortSignal.any([overtime, ...(call.signal ? [call.signal] : [])]);
    try {
      const { statusCode, body } = await this.#agent.request({ ...this.#request(url, call), signal });
      if (statusCode !== 200) throw errorOf(await body.json().catch(() => undefined), statusCode);
      let finishReason: FinishReason | undefined;
      let usage: Usage | undefined;
      for await (const data of dataEvents(body)) {
        const chunk = parse(data);
        const [choice] = chunk.choices ?? [];
        if (choice?.delta?.content) yield { type: "text", text: choice.delta.content };
        finishReason = choice?.finish_reason ?? finishReason;
        usage = chunk.usage ? usageOf(chunk.usage) : usage;
      }
      if (!finishReason || !usage) throw new LLMPoolError("upstream_error", "the instance's answer broke off");
      yield { type: "done", finishReason, usage };
    } catch (error) {
      call.signal?.throwIfAborted();
      if (error instanceof LLMPoolError) throw error;
      if (overtime.aborted) throw new LLMPoolError("request_timeout", "the instance did not keep the time limit");
      throw new LLMPoolError("upstream_error", `the instance was lost: ${messageOf(error)}`, { cause: error });
    }
  }

  close(): Promise<void> {
    return this.#agent.destroy();
  }

  #request(url: string, call: InstanceCall): Dispatcher.RequestOptions & { origin: string } {
    const { messages, maxNewTokens, stop, temperature, seed } = call;
    return {
      origin: url,
      path: "/v1/chat/completions",
      method: "POST",
      headers: {
        [INSTANCE_HEADERS.authorization]: `Bearer ${this.#token}`,
        [INSTANCE_HEADERS.timeoutMs]: String(Math.ceil(call.timeoutMs)),
        ...(call.sessionId !== undefined && { [INSTANCE_HEADERS.session]: call.sessionId }),
        "content-type": "application/json",
      },
      body: JSON.stringify({
        messages,
        max_tokens: maxNewTokens,
        temperature,
        seed,
        ...(stop.length > 0 && { stop }),
        stream: true,
        stream_options: { include_usage: true },
      }),
    };
  }
}

/** One event's JSON; an error in the middle of a stream is thrown. */
function parse(data: string): Chunk {
  if (data === "[DONE]") return {};
  const chunk = JSON.parse(data) as Chunk & Partial<ErrorBody>;
  if (chunk.error) throw errorOf(chunk, 500);
  return chunk;
}

function errorOf(body: unknown, status: number): LLMPoolError {
  const error = (body as Partial<ErrorBody> | undefined)?.error;
  if (!error) return new LLMPoolError("upstream_error", `the instance answered with status ${status}`);
  return new LLMPoolError(error.code, error.message, error.param === null ? {} : { param: error.param });
}

function usageOf(usage: UsageObject): Usage {
  return {
    promptTokens: usage.prompt_tokens,
    completionTokens: usage.completion_tokens,
    cachedTokens: usage.prompt_tokens_details.cached_tokens,
  };
}
