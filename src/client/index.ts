/** The public `llmpool`: a client of a pool's router, without dependencies. */

export { hashAgent } from "../api/agent-hash.ts";
export type { ChatMessage } from "../api/backend.ts";
export type { ErrorCode } from "../api/errors.ts";
export type {
  AuditObject,
  EpisodeCreate,
  EpisodeEventObject,
  EpisodeObject,
  InstanceObject,
  ProgressEvent,
  SessionObject,
} from "../api/http.ts";
export { LLMClient } from "./client.ts";
export type { Episodes } from "./episodes.ts";
export { type ClientErrorCode, LLMPoolClientError } from "./errors.ts";
export type { GenerateOptions, Generation, Prompt, TokenUsage } from "./generation.ts";
export type { StreamEvent } from "./stream.ts";
export type { ClientOptions } from "./transport.ts";
