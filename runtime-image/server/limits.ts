import { DEFAULT_QUEUE_LIMIT } from "../../src/api/instance.ts";

/** Bounds of an instance's server. Times in milliseconds, sizes in bytes. */
export interface ServerLimits {
  /** A body of an inference request; the router's own limit is the one that callers meet. */
  bodyBytes: number;
  /** For such a body to arrive, and for an import to show progress. */
  bodyMs: number;
  /** For the rest of a body that was refused unread, before its connection is cut. */
  discardMs: number;
  /** For a request's headers to arrive, from the connection on. */
  headersMs: number;
  /** For a client to take what was written. */
  writeIdleMs: number;
  /** For the next request on an open connection: longer than any caller's pool keeps one, so that it is the caller who closes. */
  keepAliveMs: number;
  connections: number;
  /** Requests that wait for a slot, when the caller does not say how many may. */
  waiting: number;
  /** How often one that waits is told its place. */
  positionMs: number;
}

export const DEFAULT_LIMITS: ServerLimits = {
  bodyBytes: 64 * 1024 * 1024,
  bodyMs: 30_000,
  discardMs: 5_000,
  headersMs: 10_000,
  writeIdleMs: 30_000,
  keepAliveMs: 75_000,
  connections: 1024,
  waiting: DEFAULT_QUEUE_LIMIT,
  positionMs: 5_000,
};

/** Longest wait of `GET /internal/requests/{id}`. */
export const MAX_RECORD_WAIT_MS = 10_000;
