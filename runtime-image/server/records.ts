import type { Usage } from "../../src/api/backend.ts";
import { type RequestRecord, USAGE_KEPT_MS } from "../../src/api/instance.ts";
import type { Clock } from "../../src/lib/clock.ts";
import { LLMPoolError } from "../../src/lib/errors.ts";

/** Most ended requests that are remembered; the oldest go first. About 20 MB. */
const MAX_KEPT = 65_536;

interface Kept {
  record: RequestRecord;
  endedAt: number;
}

/**
 * What each request used, while it runs and for 10 minutes after: how the router settles when it lost the answer. An id that was asked for
 * before it arrived is refused afterwards: "never seen" has been said, and must stay true.
 */
export class UsageRecords {
  readonly #clock: Clock;
  readonly #running = new Map<string, RequestRecord>();
  /** In the order of their ends. */
  readonly #ended = new Map<string, Kept>();
  readonly #denied = new Map<string, number>();
  readonly #waiters = new Map<string, Set<() => void>>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Throws `invalid_request` for an id that is taken: one id, one usage. */
  open(id: string): RequestRecord {
    this.#forget();
    const ended = this.#ended.get(id);
    if (this.#running.has(id) || (ended && ended.record.prompt_tokens > 0)) {
      throw new LLMPoolError("invalid_request", "this request id has been used: give each request its own", {
        param: "x-request-id",
      });
    }
    if (this.#denied.has(id)) {
      throw new LLMPoolError(
        "invalid_request",
        "this request id was asked for before it arrived, and was answered as unknown",
        { param: "x-request-id" },
      );
    }
    this.#ended.delete(id);
    const record: RequestRecord = { id, done: false, prompt_tokens: 0, completion_tokens: 0, cached_tokens: 0 };
    this.#running.set(id, record);
    return record;
  }

  close(record: RequestRecord): void {
    if (record.done) return;
    record.done = true;
    this.#running.delete(record.id);
    this.#ended.set(record.id, { record, endedAt: this.#clock.now() });
    for (const wake of this.#waiters.get(record.id) ?? []) wake();
    this.#forget();
  }

  /** The record, once it is done or after `waitMs`; undefined for an id that was never seen or is forgotten. */
  async find(id: string, waitMs: number, signal: AbortSignal): Promise<RequestRecord | undefined> {
    this.#forget();
    const ended = this.#ended.get(id);
    if (ended) return ended.record;
    const running = this.#running.get(id);
    if (!running) {
      this.#denied.set(id, this.#clock.now());
      return undefined;
    }
    if (waitMs > 0) await this.#ends(id, waitMs, signal);
    return running;
  }

  #ends(id: string, waitMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const waiters = this.#waiters.get(id) ?? new Set();
      this.#waiters.set(id, waiters);
      const wake = () => {
        cancel();
        signal.removeEventListener("abort", wake);
        waiters.delete(wake);
        if (waiters.size === 0) this.#waiters.delete(id);
        resolve();
      };
      const cancel = this.#clock.after(waitMs, wake);
      waiters.add(wake);
      signal.addEventListener("abort", wake);
    });
  }

  #forget(): void {
    const oldest = this.#clock.now() - USAGE_KEPT_MS;
    for (const [id, { endedAt }] of this.#ended) {
      if (endedAt > oldest && this.#ended.size <= MAX_KEPT) break;
      this.#ended.delete(id);
    }
    for (const [id, at] of this.#denied) {
      if (at > oldest && this.#denied.size <= MAX_KEPT) break;
      this.#denied.delete(id);
    }
  }
}

export function usageOf(record: RequestRecord): Usage {
  return {
    promptTokens: record.prompt_tokens,
    completionTokens: record.completion_tokens,
    cachedTokens: record.cached_tokens,
  };
}
