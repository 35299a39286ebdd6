import type { UsageObject } from "../api/http.ts";
import { errorFrom, LLMPoolClientError } from "./errors.ts";
import { type Generation, servedFrom, usageFrom } from "./generation.ts";
import { readSse } from "./sse.ts";
import { lost } from "./transport.ts";

/** What a stream yields: stages while it waits (`queued 3`, `prefill`), text as it comes, and once at the end all of it. */
export type StreamEvent =
  | { type: "stage"; stage: string }
  | { type: "text"; text: string }
  | { type: "done"; generation: Generation };

interface Chunk {
  choices?: { delta?: { content?: string | null }; finish_reason?: string | null }[];
  usage?: UsageObject | null;
  llmpool?: { instance?: string; role?: string; queue_ms?: number; rebound?: boolean };
  error?: object;
}

/** Reads a streamed chat completion. Throws LLMPoolClientError when it ends in an error, or without an end. */
export async function* readStream(
  response: Response,
  sessionId: string | undefined,
  signal: AbortSignal | undefined,
): AsyncGenerator<StreamEvent> {
  const served = servedFrom(response.headers);
  let text = "";
  let finishReason: string | undefined;
  let usage: UsageObject | null | undefined;
  let late: Chunk["llmpool"];
  try {
    for await (const item of readSse(bodyOf(response))) {
      if (item.kind === "comment") {
        yield { type: "stage", stage: item.text };
        continue;
      }
      if (item.data === "[DONE]") {
        const generation: Generation = {
          text,
          instanceId: late?.instance ?? response.headers.get("x-llmpool-instance") ?? "",
          sessionId: sessionId ?? null,
          finishReason: finishReason ?? "stop",
          usage: usageFrom(usage),
          role: late?.role ?? served.role,
          queueMs: late?.queue_ms ?? served.queueMs,
          rebound: late?.rebound ?? served.rebound,
          requestId: served.requestId,
        };
        yield { type: "done", generation };
        return;
      }
      const chunk = JSON.parse(item.data) as Chunk;
      if (chunk.error) throw errorFrom(chunk, { requestId: served.requestId });
      late = chunk.llmpool ?? late;
      usage = chunk.usage ?? usage;
      const [choice] = chunk.choices ?? [];
      finishReason = choice?.finish_reason ?? finishReason;
      const piece = choice?.delta?.content;
      if (!piece) continue;
      text += piece;
      yield { type: "text", text: piece };
    }
  } catch (error) {
    throw error instanceof LLMPoolClientError ? error : lost(error, signal);
  }
  throw new LLMPoolClientError("connection_error", "the stream ended before its end", { requestId: served.requestId });
}

/** Leaving the loop over it early cancels the request, which stops the generation. */
export function bodyOf(response: Response): AsyncIterable<Uint8Array> {
  if (!response.body) throw new LLMPoolClientError("connection_error", "an answer without a body");
  return response.body;
}
