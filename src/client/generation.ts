import type { ChatMessage } from "../api/backend.ts";
import type { GenerateAnswer, UsageObject } from "../api/http.ts";

export interface GenerateOptions {
  /** The conversation: its KV cache stays warm on one instance. Without it the request is a one-off. */
  sessionId?: string | undefined;
  episodeId?: string | undefined;
  /** Instead of the mapping's choice. */
  instanceId?: string | undefined;
  maxNewTokens?: number | undefined;
  /** Asked of the router, waiting included; the pool and the episode may allow less. */
  timeoutSeconds?: number | undefined;
  stop?: string | string[] | undefined;
  temperature?: number | undefined;
  seed?: number | undefined;
  /** Take what is left of a budget instead of a denial. */
  clampToBudget?: boolean | undefined;
  signal?: AbortSignal | undefined;
}

/** A string is one user message. */
export type Prompt = string | readonly ChatMessage[];

export interface TokenUsage {
  promptTokens: number;
  completionTokens: number;
  totalTokens: number;
  /** Prompt tokens that were in the KV cache already. */
  cachedTokens: number;
}

export interface Generation {
  text: string;
  instanceId: string;
  /** null for a one-off. */
  sessionId: string | null;
  /** `stop`, `length`. */
  finishReason: string;
  usage: TokenUsage;
  /** The role that the router took the agent for. */
  role: string | undefined;
  queueMs: number | undefined;
  /** The session had to change its instance: its cache was built anew. */
  rebound: boolean;
  requestId: string | undefined;
}

export function generateBody(agentId: string, prompt: Prompt, options: GenerateOptions): object {
  return {
    agent_id: agentId,
    ...(typeof prompt === "string" ? { prompt } : { messages: prompt }),
    session_id: options.sessionId,
    episode_id: options.episodeId,
    instance_id: options.instanceId,
    max_new_tokens: options.maxNewTokens,
    timeout_s: options.timeoutSeconds,
    stop: options.stop,
    temperature: options.temperature,
    seed: options.seed,
  };
}

/** A chat completion carries routing in headers. */
export function chatBody(prompt: Prompt, options: GenerateOptions): object {
  return {
    messages: typeof prompt === "string" ? [{ role: "user", content: prompt }] : prompt,
    max_completion_tokens: options.maxNewTokens,
    stop: options.stop,
    temperature: options.temperature,
    seed: options.seed,
    stream: true,
    stream_options: { include_usage: true },
  };
}

export function routingHeaders(agentId: string, options: GenerateOptions): Record<string, string> {
  const { sessionId, episodeId, instanceId } = options;
  return {
    "x-agent-id": agentId,
    ...(sessionId !== undefined && { "x-session-id": sessionId }),
    ...(episodeId !== undefined && { "x-episode-id": episodeId }),
    ...(instanceId !== undefined && { "x-llmpool-instance": instanceId }),
    ...commonHeaders(options),
  };
}

export function commonHeaders({ timeoutSeconds, clampToBudget }: GenerateOptions): Record<string, string> {
  return {
    ...(timeoutSeconds !== undefined && { "x-request-timeout": String(timeoutSeconds) }),
    ...(clampToBudget && { "x-llmpool-budget": "clamp" }),
  };
}

export function usageFrom(usage: UsageObject | null | undefined): TokenUsage {
  return {
    promptTokens: usage?.prompt_tokens ?? 0,
    completionTokens: usage?.completion_tokens ?? 0,
    totalTokens: usage?.total_tokens ?? 0,
    cachedTokens: usage?.prompt_tokens_details?.cached_tokens ?? 0,
  };
}

export function generationFrom(body: GenerateAnswer, headers: Headers): Generation {
  return {
    text: body.text,
    instanceId: body.instance_id,
    sessionId: body.session_id,
    finishReason: body.finish_reason,
    usage: usageFrom(body.usage),
    ...servedFrom(headers),
  };
}

/** What the router's answer headers say. */
export function servedFrom(headers: Headers): Pick<Generation, "role" | "queueMs" | "rebound" | "requestId"> {
  const queueMs = headers.get("x-llmpool-queue-ms");
  return {
    role: headers.get("x-llmpool-role") ?? undefined,
    queueMs: queueMs === null ? undefined : Number(queueMs),
    rebound: headers.get("x-llmpool-rebound") === "true",
    requestId: headers.get("x-request-id") ?? undefined,
  };
}
