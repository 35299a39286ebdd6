/**
 * Every error code that leaves this software over HTTP: one table, from which answers, documentation and metric labels are read.
 * `type` is from OpenAI's set; `retry` says whether waiting can help (false sends `x-should-retry: false`).
 */
export const ERRORS = {
  invalid_request: { status: 400, type: "invalid_request_error", retry: false },
  context_length_exceeded: { status: 400, type: "invalid_request_error", retry: false },
  unauthorized: { status: 401, type: "authentication_error", retry: false },
  forbidden: { status: 403, type: "permission_error", retry: false },
  not_found: { status: 404, type: "invalid_request_error", retry: false },
  method_not_allowed: { status: 405, type: "invalid_request_error", retry: false },
  episode_ended: { status: 409, type: "invalid_request_error", retry: false },
  payload_too_large: { status: 413, type: "invalid_request_error", retry: false },
  budget_exhausted: { status: 429, type: "insufficient_quota", retry: false },
  queue_full: { status: 429, type: "rate_limit_error", retry: true },
  internal_error: { status: 500, type: "server_error", retry: false },
  upstream_error: { status: 502, type: "server_error", retry: true },
  instance_unavailable: { status: 503, type: "server_error", retry: true },
  session_lost: { status: 503, type: "server_error", retry: true },
  store_unavailable: { status: 503, type: "server_error", retry: true },
  request_timeout: { status: 504, type: "server_error", retry: false },
  episode_deadline_exceeded: { status: 504, type: "server_error", retry: false },
} as const satisfies Record<string, { status: number; type: string; retry: boolean }>;

export type ErrorCode = keyof typeof ERRORS;

export interface ErrorDetail {
  /** The field or header at fault, as the caller wrote it (`messages[2].role`, `x-llmpool-role`). */
  param?: string;
  /** Seconds after which a retry can succeed; sent as `Retry-After`. */
  retryAfterSeconds?: number;
  cause?: unknown;
}

/** The one error that callers branch on, by `code` and never by text. */
export class LLMPoolError extends Error {
  override readonly name = "LLMPoolError";
  readonly code: ErrorCode;
  readonly param: string | null;
  readonly retryAfterSeconds: number | undefined;

  constructor(code: ErrorCode, message: string, detail: ErrorDetail = {}) {
    super(message, detail.cause === undefined ? undefined : { cause: detail.cause });
    this.code = code;
    this.param = detail.param ?? null;
    this.retryAfterSeconds = detail.retryAfterSeconds;
  }
}

/** The body of every error answer. */
export interface ErrorBody {
  error: { message: string; type: string; code: ErrorCode; param: string | null };
}

/** What a failed call answers. Anything that is not an LLMPoolError becomes `internal_error` with a fixed text, so no detail leaks. */
export function toErrorBody(error: unknown): { status: number; body: ErrorBody; headers: Record<string, string> } {
  const known = error instanceof LLMPoolError ? error : new LLMPoolError("internal_error", "internal error");
  const { status, type, retry } = ERRORS[known.code];
  const headers: Record<string, string> = {};
  if (known.retryAfterSeconds !== undefined)
    headers["retry-after"] = String(Math.max(1, Math.ceil(known.retryAfterSeconds)));
  if (!retry) headers["x-should-retry"] = "false";
  return { status, body: { error: { message: known.message, type, code: known.code, param: known.param } }, headers };
}

/** The text of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
