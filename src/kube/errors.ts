import { messageOf } from "../lib/errors.ts";

/** `metav1.Status`, the body of every failed call. */
export interface Status {
  kind?: string;
  code?: number;
  reason?: string;
  message?: string;
  details?: {
    name?: string;
    uid?: string;
    retryAfterSeconds?: number;
    causes?: { reason?: string; field?: string; message?: string }[];
  };
}

/** The API server answered, and not with success. Branch on `status` and `reason`, never on the text. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  /** HTTP status. */
  readonly status: number;
  /** `NotFound`, `AlreadyExists`, `Conflict`, `Expired`, `Invalid` …; "" when the answer was no Status (a proxy's page). */
  readonly reason: string;
  readonly details: NonNullable<Status["details"]>;
  /** How long the server asks to wait before the next try. */
  readonly retryAfterMs: number | undefined;

  constructor(what: string, status: number, body: Status = {}, retryAfter?: string) {
    super(`${what}: ${status} ${body.reason ?? ""}: ${body.message ?? "no message"}`.replace(" : ", ": "));
    this.status = status;
    this.reason = body.reason ?? "";
    this.details = body.details ?? {};
    const seconds = Number(retryAfter ?? this.details.retryAfterSeconds ?? Number.NaN);
    this.retryAfterMs = Number.isFinite(seconds) && seconds >= 0 ? seconds * 1000 : undefined;
  }
}

/** No answer, or not a whole one: refused, reset, timed out, a certificate that is not trusted, no JSON. */
export class ConnectionError extends Error {
  override readonly name = "ConnectionError";

  constructor(what: string, cause: unknown) {
    // Refused on both addresses of a name: an AggregateError, whose message is empty.
    const first = cause instanceof AggregateError && !cause.message ? cause.errors[0] : cause;
    super(`${what}: ${messageOf(first)}`, { cause });
  }
}

export function isStatus(error: unknown, status: number): error is ApiError {
  return error instanceof ApiError && error.status === status;
}

/** No object of that name. */
export function isNotFound(error: unknown): error is ApiError {
  return isStatus(error, 404);
}

/** Someone else wrote first: a stale resourceVersion, a precondition, a field of another manager, a name that is taken. */
export function isConflict(error: unknown): error is ApiError {
  return isStatus(error, 409);
}

/** What may well go right when it is tried again as it is: a lost race, a server that is busy or has troubles of its own. */
export function isTemporary(error: unknown): error is ApiError {
  return error instanceof ApiError && (error.status === 409 || error.status === 429 || error.status >= 500);
}

/** The resourceVersion or continue token is too old: list again. */
export function isGone(error: unknown): error is ApiError {
  return isStatus(error, 410);
}

/** This server has not come as far as the resourceVersion that it was asked for. */
export function isTooLargeVersion(error: unknown): boolean {
  return (
    error instanceof ApiError &&
    (error.details.causes?.some((cause) => cause.reason === "ResourceVersionTooLarge") ?? false)
  );
}
