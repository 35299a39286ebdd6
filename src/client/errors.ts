import { ERRORS, type ErrorCode } from "../api/errors.ts";

export interface ClientErrorDetail {
  /** HTTP status; absent when there was no answer (a lost connection, a denial by the client itself). */
  status?: number | undefined;
  /** The field or header at fault. */
  param?: string | null | undefined;
  /** Seconds after which a retry can succeed. */
  retryAfterSeconds?: number | undefined;
  requestId?: string | undefined;
  /** The server's word on whether another try can help; by default what the code's row says. */
  retryable?: boolean | undefined;
  cause?: unknown;
}

/** `connection_error`: no answer, or half of one. All others come from the router, or are its answer foreseen (`local`). */
export type ClientErrorCode = ErrorCode | "connection_error";

/** The one error of this client; callers branch on `code`. An abort by the caller's own signal is not one: it throws the signal's reason. */
export class LLMPoolClientError extends Error {
  override readonly name = "LLMPoolClientError";
  readonly code: ClientErrorCode;
  readonly status: number | undefined;
  readonly param: string | undefined;
  readonly retryAfterSeconds: number | undefined;
  readonly requestId: string | undefined;
  /** Whether trying again can help. */
  readonly retryable: boolean;
  /** Denied by this client, without asking the router. */
  readonly local: boolean;

  constructor(code: ClientErrorCode, message: string, detail: ClientErrorDetail & { local?: boolean } = {}) {
    super(message, detail.cause === undefined ? undefined : { cause: detail.cause });
    this.code = code;
    this.status = detail.status;
    this.param = detail.param ?? undefined;
    this.retryAfterSeconds = detail.retryAfterSeconds;
    this.requestId = detail.requestId;
    this.retryable = detail.retryable ?? (code !== "connection_error" && ERRORS[code].retry);
    this.local = detail.local ?? false;
  }
}

/** The error that an error body says; of anything else (a proxy's page) one that its status stands for. */
export function errorFrom(body: unknown, detail: ClientErrorDetail): LLMPoolClientError {
  const error = (body as { error?: { code?: unknown; message?: unknown; param?: unknown } } | null)?.error;
  const { code, message, param } = error ?? {};
  if (isErrorCode(code)) {
    return new LLMPoolClientError(code, typeof message === "string" ? message : code, {
      ...detail,
      status: detail.status ?? ERRORS[code].status,
      param: typeof param === "string" ? param : undefined,
    });
  }
  const status = detail.status ?? 0;
  const guess = status >= 500 ? "upstream_error" : status === 429 ? "queue_full" : "invalid_request";
  const byStatus = Object.entries(ERRORS).find(([, row]) => row.status === status)?.[0];
  return new LLMPoolClientError(isErrorCode(byStatus) ? byStatus : guess, `the server answered ${status}`, detail);
}

function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === "string" && Object.hasOwn(ERRORS, code);
}
