/**
 * Every error code that leaves this software over HTTP: one table, from which answers, documentation and metric labels are read.
 * `type` is from OpenAI's set; `retry` says whether waiting can help (false sends `x-should-retry: false`).
 */
export const ERRORS = {
  invalid_request: {
    status: 400,
    type: "invalid_request_error",
    retry: false,
    when: "a field, header or body is not what it must be; `param` names it",
  },
  context_length_exceeded: {
    status: 400,
    type: "invalid_request_error",
    retry: false,
    when: "the prompt leaves no room in the context",
  },
  unauthorized: { status: 401, type: "authentication_error", retry: false, when: "no key, or one that is not known" },
  forbidden: { status: 403, type: "permission_error", retry: false, when: "the key lacks the scope or the role" },
  not_found: {
    status: 404,
    type: "invalid_request_error",
    retry: false,
    when: "no such model, episode, session or path, or it is another caller's",
  },
  method_not_allowed: {
    status: 405,
    type: "invalid_request_error",
    retry: false,
    when: "`Allow` says what the path takes",
  },
  episode_ended: {
    status: 409,
    type: "invalid_request_error",
    retry: false,
    when: "the episode is over; its id stays taken for `retainSeconds`",
  },
  payload_too_large: {
    status: 413,
    type: "invalid_request_error",
    retry: false,
    when: "the body is above `router.maxBodyMiB`",
  },
  budget_exhausted: {
    status: 429,
    type: "insufficient_quota",
    retry: false,
    when: "the worst case does not fit what a budget has left",
  },
  queue_full: { status: 429, type: "rate_limit_error", retry: true, when: "the instance's waiting line is full" },
  internal_error: {
    status: 500,
    type: "server_error",
    retry: false,
    when: "a fault of ours; the log has the request id",
  },
  upstream_error: {
    status: 502,
    type: "server_error",
    retry: true,
    when: "the instance failed or broke off its answer",
  },
  instance_unavailable: {
    status: 503,
    type: "server_error",
    retry: true,
    when: "no instance that may take it is ready",
  },
  session_lost: {
    status: 503,
    type: "server_error",
    retry: true,
    when: "the session's instance was lost in mid-answer; the whole context is in the next turn, so send it again",
  },
  store_unavailable: {
    status: 503,
    type: "server_error",
    retry: true,
    when: "episodes and budgets cannot be asked: nothing is admitted",
  },
  request_timeout: {
    status: 504,
    type: "server_error",
    retry: false,
    when: "the request's own time is over, or would be before its first token",
  },
  episode_deadline_exceeded: { status: 504, type: "server_error", retry: false, when: "its episode's time is over" },
} as const satisfies Record<string, { status: number; type: string; retry: boolean; when: string }>;

export type ErrorCode = keyof typeof ERRORS;

/** The body of every error answer. */
export interface ErrorBody {
  error: { message: string; type: string; code: ErrorCode; param: string | null };
}
