import type { Dispatcher } from "undici";
import type { Usage } from "../api/backend.ts";
import { INSTANCE_HEADERS, type InstanceIdentity, type RequestRecord } from "../api/instance.ts";
import type { Endpoint } from "../core/endpoint.ts";
import type { Clock } from "../lib/clock.ts";
import { Connections } from "./connections.ts";

/** How long an instance has to answer a question that needs no model, in milliseconds. */
const ANSWER_MS = 10_000;

/** Connections to instances: those of an endpoint are gone with it. The pool's token is sent here and nowhere else. */
export class Upstreams {
  readonly #connections = new Map<string, Connections>();
  readonly #clock: Clock;
  #authorization: readonly string[] = [];
  #jsonHeaders: readonly string[] = [];

  /** Throws when the token could not stand in a header. */
  constructor(token: string, clock: Clock) {
    this.#clock = clock;
    this.setToken(token);
  }

  /** What is sent from now on. Throws, and keeps the old one, when it could not stand in a header. */
  setToken(token: string): void {
    if (!/^[\x21-\x7e]+$/.test(token)) throw new Error("the pool's token must be printable ASCII without spaces");
    this.#authorization = [INSTANCE_HEADERS.authorization, `Bearer ${token}`];
    this.#jsonHeaders = [...this.#authorization, "content-type", "application/json"];
  }

  /** The episode's and the request's own deadlines rule; a silent prefill is no fault. */
  dispatch(
    endpoint: Endpoint,
    path: string,
    headers: string[],
    body: Buffer,
    handler: Dispatcher.DispatchHandler,
  ): void {
    this.#of(endpoint).dispatch({ method: "POST", path, headers: [...this.#jsonHeaders, ...headers], body }, handler);
  }

  /**
   * What the instance counted for a request, once that is final, for which it waits up to `waitSeconds`; or how long the process has been up
   * that does not know it. Rejects when it cannot be asked, which is what a dead process looks like.
   */
  async record(
    endpoint: Endpoint,
    requestId: string,
    waitSeconds: number,
  ): Promise<{ usage: Usage } | { unknownSinceMs: number; boot: string } | "running"> {
    const answer = await this.#of(endpoint).request({
      method: "GET",
      path: `/internal/requests/${encodeURIComponent(requestId)}?wait_s=${waitSeconds}`,
      headers: [...this.#authorization],
      signal: AbortSignal.timeout(waitSeconds * 1000 + ANSWER_MS),
    });
    if (answer.statusCode === 404) {
      const { uptime_s, boot } = (await answer.body.json()) as InstanceIdentity;
      return { unknownSinceMs: uptime_s * 1000, boot };
    }
    const record = (await answer.body.json()) as RequestRecord;
    if (answer.statusCode !== 200) throw new Error(`record of ${requestId}: ${answer.statusCode}`);
    return record.done ? { usage: usageOf(record) } : "running";
  }

  async deleteSession(endpoint: Endpoint, key: string): Promise<void> {
    const answer = await this.#of(endpoint).request({
      method: "DELETE",
      path: `/internal/sessions/${encodeURIComponent(key)}`,
      headers: [...this.#authorization],
      signal: AbortSignal.timeout(ANSWER_MS),
    });
    await answer.body.dump();
  }

  /** Drops endpoints that are no longer there; their open requests end with an error. */
  retain(uids: ReadonlySet<string>): void {
    for (const [uid, connections] of this.#connections) {
      if (uids.has(uid)) continue;
      this.#connections.delete(uid);
      void connections.destroy();
    }
  }

  async close(): Promise<void> {
    this.retain(new Set());
  }

  #of({ uid, url }: Endpoint): Connections {
    let connections = this.#connections.get(uid);
    if (!connections) {
      connections = new Connections(url, this.#clock);
      this.#connections.set(uid, connections);
    }
    return connections;
  }
}

export function usageOf(record: Pick<RequestRecord, "prompt_tokens" | "completion_tokens" | "cached_tokens">): Usage {
  return {
    promptTokens: record.prompt_tokens,
    completionTokens: record.completion_tokens,
    cachedTokens: record.cached_tokens,
  };
}
