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

/** The body of every error answer. */
export interface ErrorBody {
  error: { message: string; type: string; code: ErrorCode; param: string | null };
}
