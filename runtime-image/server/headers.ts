import { randomUUID } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { INSTANCE_HEADERS } from "../../src/api/instance.ts";
import { LLMPoolError } from "../../src/lib/errors.ts";

/** What the router says about a request beside its body. */
export interface CallHeaders {
  requestId: string;
  session?: string;
  /** From its arrival on, in milliseconds; absent: the instance's own limit. */
  timeoutMs?: number;
  maxTotalTokens?: number;
  /** Who competes as one for a slot; absent: all who do not say. */
  flow?: string;
  /** To the end of its episode, in milliseconds. */
  episodeMs?: number;
  /** How long it has waited already, in milliseconds. */
  waitedMs?: number;
  prefillTokens?: number;
  queueLimit?: number;
}

const ID = /^[A-Za-z0-9._:-]{1,128}$/;
const SESSION = /^[\x21-\x7e]{1,512}$/;
const FLOW = /^[\x21-\x7e]{1,1024}$/;
const NUMBER = /^\d{1,12}$/;

const NUMBERS = ["timeoutMs", "maxTotalTokens", "episodeMs", "waitedMs", "prefillTokens", "queueLimit"] as const;

/** Throws `invalid_request` that names the header. A request without an id gets one. */
export function readHeaders(headers: IncomingHttpHeaders): CallHeaders {
  const call: CallHeaders = {
    requestId: pick(headers, "requestId", ID, "1 to 128 letters, digits or . _ : -") ?? `req_${randomUUID()}`,
  };
  const session = pick(headers, "session", SESSION, "1 to 512 visible ASCII characters");
  if (session !== undefined) call.session = session;
  const flow = pick(headers, "flow", FLOW, "1 to 1024 visible ASCII characters");
  if (flow !== undefined) call.flow = flow;
  for (const key of NUMBERS) {
    const value = pick(headers, key, NUMBER, "a whole number");
    if (value !== undefined) call[key] = Number(value);
  }
  return call;
}

/** A session's key as the last part of a path. */
export function sessionOfPath(part: string): string {
  let session: string;
  try {
    session = decodeURIComponent(part);
  } catch {
    session = "";
  }
  if (!SESSION.test(session))
    throw new LLMPoolError("invalid_request", "the session's key must be 1 to 512 visible ASCII characters");
  return session;
}

function pick(
  headers: IncomingHttpHeaders,
  key: keyof typeof INSTANCE_HEADERS,
  pattern: RegExp,
  rule: string,
): string | undefined {
  const name = INSTANCE_HEADERS[key];
  const value = headers[name];
  if (value === undefined) return undefined;
  if (typeof value === "string" && pattern.test(value)) return value;
  throw new LLMPoolError("invalid_request", `${name} must be ${rule}`, { param: name });
}
