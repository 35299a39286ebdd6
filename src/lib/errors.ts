import { ERRORS, type ErrorBody, type ErrorCode } from "../api/errors.ts";

export { ERRORS, type ErrorBody, type ErrorCode };

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
