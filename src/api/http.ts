import { z } from "zod";
import type { InstanceState } from "./instance.ts";
import { RequestMetadata } from "./openai.ts";

/** Bodies of the router's own calls (everything that is not OpenAI's). Instants are RFC 3339 in UTC, durations are seconds. */

/** Ids of sessions, episodes, agents and requests. */
export const Id = z
  .string()
  .regex(/^[A-Za-z0-9._:-]{1,128}$/, "must be 1 to 128 characters out of letters, digits and . _ : -");

const Metadata = z.record(z.string().min(1).max(64), z.string().max(512)).refine((m) => Object.keys(m).length <= 16, {
  message: "write at most 16 entries",
});

export const EpisodeCreate = z.strictObject({
  id: Id.optional(),
  timeout_s: z.number().positive().optional(),
  extend_s: z.number().min(0).optional(),
  max_timeout_s: z.number().positive().optional(),
  budget_tokens: z.int().positive().optional(),
  metadata: Metadata.optional(),
});
export type EpisodeCreate = z.infer<typeof EpisodeCreate>;

export const PROGRESS_EVENTS = [
  "test_discovery",
  "test_execution",
  "file_write",
  "patch",
  "token_usage",
  "topology_switch",
  "llm_response",
] as const;
export type ProgressEvent = (typeof PROGRESS_EVENTS)[number];

/** `heartbeat` is accepted and is no progress. */
export const ProgressReport = z.strictObject({
  event: z.enum([...PROGRESS_EVENTS, "heartbeat"]),
  detail: z.string().max(1024).optional(),
});
export type ProgressReport = z.infer<typeof ProgressReport>;

export const END_REASONS = ["finished", "cancelled", "idle", "deadline", "max_deadline"] as const;
export type EndReason = (typeof END_REASONS)[number];

export interface EpisodeObject {
  object: "episode";
  id: string;
  state: "active" | "ended";
  end_reason: EndReason | null;
  started_at: string;
  /** When it ends if no further progress comes, as the wall clock stands now. */
  deadline: string;
  time_remaining_s: number;
  extensions: number;
  tokens_used: number;
  tokens_reserved: number;
  /** null: no limit. */
  budget_tokens: number | null;
  last_progress: { event: string; at: string };
  /** Ids of its sessions. */
  sessions: string[];
  metadata: Record<string, string>;
}

/** `GET /v1/episodes/{id}/events`: the SSE event name is `event`; every event but the heartbeat has the SSE id `seq`. */
export interface EpisodeEventObject {
  event: "started" | "progress" | "extended" | "ended" | "heartbeat";
  episode_id: string;
  at: string;
  [field: string]: string | number | null;
}

/** `GET /v1/episodes/{id}/audit`: one line of the journal; what else it has depends on `event`. */
export interface AuditObject {
  event: "start" | "admit" | "settle" | "deny" | "rebind" | "extend" | "expire" | "end";
  /** Ascending: `?after=SEQ` goes on behind it. */
  seq: number;
  episode_id: string;
  at: string;
  [field: string]: string | number | boolean;
}

export interface SessionObject {
  object: "session";
  id: string;
  /** Role name, `agent:<id>`, `instance:<id>` or "". */
  role: string;
  instance_id: string;
  episode_id: string | null;
  last_used_at: string;
}

export interface InstanceObject {
  object: "instance";
  id: string;
  variant: string;
  state: InstanceState;
  roles: string[];
  queued: number;
  running: number;
  sessions: number;
  tokens_per_second: number | null;
  restarts: number;
  device: string | null;
  message: string | null;
  pid?: number;
  pod?: string;
}

export interface List<T> {
  object: "list";
  data: T[];
}

/** A null counts as absent: many clients write one for what is not set. */
const orNull = <T extends z.ZodType>(schema: T) => schema.nullish().transform((value) => value ?? undefined);

const GenerateSchema = z.strictObject({
  role: orNull(z.string().max(128)),
  agent_id: orNull(Id),
  instance_id: orNull(
    z.union([z.int().min(0).transform(String), Id], { error: "write the id of an instance, such as 0 or code-0" }),
  ),
  session_id: orNull(Id),
  episode_id: orNull(Id),
  metadata: orNull(RequestMetadata),
  prompt: orNull(z.string()),
  messages: orNull(
    z
      .array(z.looseObject({ role: z.string() }))
      .min(1)
      .max(4096),
  ),
  max_new_tokens: orNull(z.int().min(1).max(1_000_000)),
  timeout_s: orNull(z.number().positive()),
  stop: orNull(z.union([z.string(), z.array(z.string()).max(16)], { error: "write a text or at most 16 texts" })),
  temperature: orNull(z.number().min(0).max(2)),
  seed: orNull(z.int()),
  stream: orNull(z.boolean()),
});
/** `POST /v1/generate`: one of `role`, `agent_id`, `instance_id` says who asks; one of `prompt`, `messages` what. Compiled, as ChatRequest. */
export const GenerateBody = z.compile(GenerateSchema, { strict: true });
export type GenerateBody = z.infer<typeof GenerateBody>;

export interface GenerateAnswer {
  text: string;
  instance_id: string;
  session_id: string | null;
  finish_reason: string;
  usage: UsageObject;
}

export interface UsageObject {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: { cached_tokens: number };
}
