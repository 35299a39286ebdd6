import { type Dispatcher, Pool } from "undici";
import type { Usage } from "../api/backend.ts";
import { INSTANCE_HEADERS, type InstanceIdentity, type RequestRecord } from "../api/instance.ts";
import type { Endpoint } from "../core/endpoint.ts";

/** How long an instance has to accept a connection, in milliseconds. It is one machine or one cluster network away. */
const CONNECT_MS = 5_000;

/** Connections to instances: one pool an endpoint, gone with it. The pool's token is sent here and nowhere else. */
export class Upstreams {
  readonly #pools = new Map<string, Pool>();
  readonly #authorization: string;

  constructor(token: string) {
    this.#authorization = `Bearer ${token}`;
  }

  dispatch(
    endpoint: Endpoint,
    path: string,
    headers: string[],
    body: Buffer,
    handler: Dispatcher.DispatchHandler,
  ): void {
    this.#pool(endpoint).dispatch(
      {
        method: "POST",
        path,
        headers: [INSTANCE_HEADERS.authorization, this.#authorization, "content-type", "application/json", ...headers],
        body,
        // The episode's and the request's own deadlines rule; a silent prefill is no fault.
        headersTimeout: 0,
        bodyTimeout: 0,
      },
      handler,
    );
  }

  /**
   * What the instance counted for a request, once that is final, for which it waits up to `waitSeconds`; or how long the process has been up
   * that does not know it. Rejects when it cannot be asked, which is what a dead process looks like.
   */
  async record(
    endpoint: Endpoint,
    requestId: string,
    waitSeconds: number,
  ): Promise<{ usage: Usage } | { unknownSinceMs: number } | "running"> {
    const answer = await this.#pool(endpoint).request({
      method: "GET",
      path: `/internal/requests/${encodeURIComponent(requestId)}?wait_s=${waitSeconds}`,
      headers: { [INSTANCE_HEADERS.authorization]: this.#authorization },
      headersTimeout: (waitSeconds + 5) * 1000,
      bodyTimeout: 5_000,
    });
    if (answer.statusCode === 404) {
      const { uptime_s } = (await answer.body.json()) as InstanceIdentity;
      return { unknownSinceMs: uptime_s * 1000 };
    }
    const record = (await answer.body.json()) as RequestRecord;
    if (answer.statusCode !== 200) throw new Error(`record of ${requestId}: ${answer.statusCode}`);
    return record.done ? { usage: usageOf(record) } : "running";
  }

  async deleteSession(endpoint: Endpoint, key: string): Promise<void> {
    const answer = await this.#pool(endpoint).request({
      method: "DELETE",
      path: `/internal/sessions/${encodeURIComponent(key)}`,
      headers: { [INSTANCE_HEADERS.authorization]: this.#authorization },
      headersTimeout: 10_000,
      bodyTimeout: 5_000,
    });
    await answer.body.dump();
  }

  /** Drops the pools of endpoints that are no longer there; their open requests end with an error. */
  retain(uids: ReadonlySet<string>): void {
    for (const [uid, pool] of this.#pools) {
      if (uids.has(uid)) continue;
      this.#pools.delete(uid);
      void pool.destroy().catch(() => {});
    }
  }

  async close(): Promise<void> {
    const pools = [...this.#pools.values()];
    this.#pools.clear();
    await Promise.allSettled(pools.map((pool) => pool.destroy()));
  }

  #pool(endpoint: Endpoint): Pool {
    let pool = this.#pools.get(endpoint.uid);
    if (!pool) {
      pool = new Pool(endpoint.url, { pipelining: 1, connect: { timeout: CONNECT_MS }, keepAliveTimeout: 30_000 });
      this.#pools.set(endpoint.uid, pool);
    }
    return pool;
  }
}

export function usageOf(record: Pick<RequestRecord, "prompt_tokens" | "completion_tokens" | "cached_tokens">): Usage {
  return {
    promptTokens: record.prompt_tokens,
    completionTokens: record.completion_tokens,
    cachedTokens: record.cached_tokens,
  };
}
