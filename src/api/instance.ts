import { z } from "zod";

/** The instance protocol: what a router (or supervisor) and an instance say to each other. docs/instance-protocol.md is its prose. */

export const INSTANCE_STATES = ["Pending", "Loading", "WarmingUp", "Ready", "Draining", "Failed"] as const;
export type InstanceState = (typeof INSTANCE_STATES)[number];

/** Request headers from router to instance. All optional but the authorization. */
export const INSTANCE_HEADERS = {
  /** `Bearer <pool token>`. */
  authorization: "authorization",
  requestId: "x-request-id",
  /** Opaque key of the KV cache to use. Absent: a one-off. */
  session: "x-llmpool-session",
  /** Milliseconds left for this request. */
  timeoutMs: "x-llmpool-timeout-ms",
  /** The reservation: most prompt + completion tokens. */
  maxTotalTokens: "x-llmpool-max-total-tokens",
  /** Opaque: requests with the same one share one turn in the instance's line. Only who sends it is told by 102 responses how the wait goes. */
  flow: "x-llmpool-flow",
  /** Milliseconds left of its episode: not started after it. */
  episodeMs: "x-llmpool-episode-ms",
  /** Milliseconds it has waited already, elsewhere: it is as old as that in its flow. */
  waitedMs: "x-llmpool-waited-ms",
  /** Prompt tokens that no warm cache can spare. */
  prefillTokens: "x-llmpool-prefill-tokens",
  /** Most requests that may wait here. */
  queueLimit: "x-llmpool-queue-limit",
} as const;

/** Header of a 102 response: the place in the line; 0 when it has its slot. */
export const POSITION_HEADER = "x-llmpool-position";

/** Requests that wait for a slot when nobody says how many may: `queuePerInstance` where it is not given. */
export const DEFAULT_QUEUE_LIMIT = 64;

/**
 * Usage travels to the router as an SSE comment `: usage {json}` (a RequestRecord) right before the last data of a stream (`[DONE]` or the
 * error), and as OpenAI's `usage` of a JSON body, also beside `error`. The same record answers `GET /internal/requests/{id}` for 10 minutes.
 */
export const USAGE_COMMENT = ": usage ";

/** How long a usage record is kept after its request ended, in milliseconds. */
export const USAGE_KEPT_MS = 600_000;

/** `GET /internal/requests/{id}`; `?wait_s=N` holds the answer until the request is done, at most N (10) seconds. 404 when never seen or forgotten. */
export interface RequestRecord {
  id: string;
  done: boolean;
  prompt_tokens: number;
  completion_tokens: number;
  cached_tokens: number;
}

/** `GET /healthz` and every 404 of `/internal/requests/{id}` carry who answers: `boot` differs after each start of the process. */
export interface InstanceIdentity {
  id: string;
  boot: string;
  uptime_s: number;
}

/** `GET /readyz`. What follows the state is there once the instance has been warmed up. */
export interface InstanceReadiness {
  state: InstanceState;
  /** What computes: the GPU's name, or CPU. */
  device?: string;
  /** How long the warm-up inference took. */
  warmup_s?: number;
  /** Speed of one stream: of the last ten or so answers, until there is one of the warm-up. */
  tokens_per_second?: number;
  /** hf-cuda: `CUDA graphs`, or `eager: ` and why. */
  decode?: string;
  /** It gives log probabilities; else it refuses `logprobs: true`. */
  logprobs?: true;
}

/** `GET /healthz` of the supervisor of a Packed pod: `{instances: [...]}`. */
export interface SupervisedInstance extends InstanceReadiness {
  id: string;
  restarts: number;
  /** Of what its process was started with. Absent: a supervisor of an earlier release. */
  revision?: string;
  /** Why it is not Ready; while it is, a warning. */
  message?: string;
}

/** What the first inference of a process has shown. */
export interface Warmup {
  seconds: number;
  tokensPerSecond: number;
}

export const StubKnobs = z.strictObject({
  ttftMs: z.number().min(0),
  interTokenMs: z.number().min(0),
  replyTokens: z.int().min(1),
  errorRate: z.number().min(0).max(1),
});

/** Everything one instance process is told at its start, as JSON in `LLMPOOL_INSTANCE`. Made from an InstancePlan by an applier. */
export const InstanceConfig = z.strictObject({
  pool: z.string(),
  id: z.string(),
  variant: z.string(),
  backend: z.enum(["stub", "llama-cpp", "hf-cuda"]),
  /** 127.0.0.1 locally, 0.0.0.0 in a pod. */
  host: z.string(),
  /** 0: the operating system chooses, and the `listening` message says which. */
  port: z.int().min(0).max(65535),
  metricsPort: z.int().min(0).max(65535),
  /** File with the pool's token. Read at the start and again when a caller's token does not match. */
  tokenFile: z.string(),
  model: z.strictObject({ uri: z.string(), sha256: z.string(), quantization: z.string() }).optional(),
  /** What answers as `model`. Absent: the name of the model's file. */
  modelName: z.string().optional(),
  /** Where the model file (GGUF) or folder already is. Absent: the instance fetches `model.uri` into `cacheDir` itself. */
  modelPath: z.string().optional(),
  /** Shared model cache. */
  cacheDir: z.string(),
  /** This instance's own folder for saved KV caches. */
  stateDir: z.string(),
  contextTokens: z.int().min(1),
  /** Warm KV caches, and requests that run at once. */
  sessions: z.int().min(1),
  requestTimeoutSeconds: z.int().min(1),
  /** Time that running requests get after SIGTERM. Absent: `requestTimeoutSeconds`, unless a supervisor says it. */
  drainSeconds: z.int().min(0).optional(),
  sessionTTLSeconds: z.int().min(1),
  warmupPrompt: z.string(),
  /**
   * hf-cuda: one process of a card `own`s the weights and computes nothing, the others `map` them, by a unix socket in a folder of their own.
   * Absent: each has its own.
   */
  weights: z.strictObject({ role: z.enum(["own", "map"]), socket: z.string() }).optional(),
  /** Threads to start with. Absent: what the process may use of the machine. */
  threads: z.int().min(1).optional(),
  stub: StubKnobs,
});
export type InstanceConfig = z.infer<typeof InstanceConfig>;

/** From an instance to its supervisor, over the child's IPC channel (absent in a pod of its own). */
export type InstanceMessage =
  | { type: "listening"; port: number; metricsPort: number }
  | { type: "state"; state: InstanceState; fraction?: number }
  | {
      type: "ready";
      device: string;
      modelName: string;
      warmupSeconds: number;
      tokensPerSecond: number;
      warning?: string;
    }
  /** Requests running now; sent when it changes between 0 and more, so that idle instances lend their threads. */
  | { type: "running"; count: number }
  /** The reason, in words, right before an exit that is not a crash (bad model file, port taken). */
  | { type: "failed"; reason: FailureReason; message: string };

/** `deadlineMs`: milliseconds from now that running requests may still take. */
export type SupervisorMessage = { type: "threads"; count: number } | { type: "drain"; deadlineMs: number };

/** Why an instance is not running. A closed set: it is a metric label. */
export const FAILURE_REASONS = [
  "OutOfMemory",
  "ModelNotFound",
  "ModelInvalid",
  "ModelDownloadFailed",
  "PortInUse",
  "ConfigInvalid",
  "WarmupFailed",
  "Signal",
  "ExitCode",
  "Unresponsive",
] as const;
export type FailureReason = (typeof FAILURE_REASONS)[number];

/** Why an instance cannot start, with words that end in the cure. `createBackend` of every runtime rejects with it; the process sends it as `failed`. */
export class StartError extends Error {
  override readonly name = "StartError";
  readonly reason: FailureReason;

  constructor(reason: FailureReason, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.reason = reason;
  }
}
