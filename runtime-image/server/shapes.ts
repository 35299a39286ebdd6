import type { FinishReason, ToolCall, Usage } from "../../src/api/backend.ts";
import type { UsageObject } from "../../src/api/http.ts";
import type { ChatCompletion, TextCompletion } from "../../src/api/openai.ts";

/** How one route writes its answer: whole, and as frames of a stream. Frames are complete SSE events. */
export interface Shape {
  whole(
    text: string,
    calls: readonly ToolCall[],
    finishReason: FinishReason,
    usage: Usage,
  ): ChatCompletion | TextCompletion;
  /** The frame before the first text; "" where the route has none. */
  first(): string;
  text(text: string): string;
  toolCall(index: number, call: ToolCall): string;
  last(finishReason: FinishReason): string;
  usage(usage: Usage): string;
}

export interface ShapeOptions {
  requestId: string;
  model: string;
  /** Unix seconds. */
  created: number;
  /** Then every other chunk says `"usage": null`, as OpenAI's do. */
  includeUsage: boolean;
  /** The answer has to be a call: without text its content is null, even when the call was cut. */
  callOnly: boolean;
}

export function usageObject(usage: Usage): UsageObject {
  return {
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.completionTokens,
    total_tokens: usage.promptTokens + usage.completionTokens,
    prompt_tokens_details: { cached_tokens: usage.cachedTokens },
  };
}

/** `/v1/chat/completions`. What is equal in all chunks is made once: per token only its text is. */
export function chatShape({ requestId, model, created, includeUsage, callOnly }: ShapeOptions): Shape {
  const id = `chatcmpl-${requestId}`;
  const head = frameHead({ id, object: "chat.completion.chunk", created, model });
  const tail = includeUsage ? ',"usage":null}\n\n' : "}\n\n";
  const frame = (delta: string, finish: FinishReason | null) =>
    `${head},"choices":[{"index":0,"delta":${delta},"logprobs":null,"finish_reason":${JSON.stringify(finish)}}]${tail}`;
  return {
    whole: (text, calls, finishReason, usage) => ({
      id,
      object: "chat.completion",
      created,
      model,
      choices: [
        {
          index: 0,
          message: {
            role: "assistant",
            content: text === "" && (callOnly || calls.length > 0) ? null : text,
            refusal: null,
            ...(calls.length > 0 && { tool_calls: [...calls] }),
          },
          logprobs: null,
          finish_reason: finishReason,
        },
      ],
      usage: usageObject(usage),
    }),
    first: () => frame('{"role":"assistant","content":""}', null),
    text: (text) => frame(`{"content":${JSON.stringify(text)}}`, null),
    toolCall: (index, call) => frame(JSON.stringify({ tool_calls: [{ index, ...call }] }), null),
    last: (finishReason) => frame("{}", finishReason),
    usage: (usage) => `${head},"choices":[],"usage":${JSON.stringify(usageObject(usage))}}\n\n`,
  };
}

/** `/v1/completions`. */
export function textShape({ requestId, model, created, includeUsage }: ShapeOptions): Shape {
  const id = `cmpl-${requestId}`;
  const head = frameHead({ id, object: "text_completion", created, model });
  const tail = includeUsage ? ',"usage":null}\n\n' : "}\n\n";
  const frame = (text: string, finish: FinishReason | null) =>
    `${head},"choices":[{"index":0,"text":${JSON.stringify(text)},"logprobs":null,"finish_reason":${JSON.stringify(finish)}}]${tail}`;
  return {
    whole: (text, _calls, finishReason, usage) => ({
      id,
      object: "text_completion",
      created,
      model,
      choices: [{ index: 0, text, logprobs: null, finish_reason: finishReason }],
      usage: usageObject(usage),
    }),
    first: () => "",
    text: (text) => frame(text, null),
    toolCall: () => "",
    last: (finishReason) => frame("", finishReason),
    usage: (usage) => `${head},"choices":[],"usage":${JSON.stringify(usageObject(usage))}}\n\n`,
  };
}

/** Everything of a frame up to its choices. */
function frameHead(fields: object): string {
  return `data: ${JSON.stringify(fields).slice(0, -1)}`;
}
