import type { Clock } from "../lib/clock.ts";
import { retryMs, TokenBucket } from "./backoff.ts";
import type { KubeMetrics, QueueMetrics } from "./metrics.ts";

/** Retries of all keys together: client-go's rate. New keys are never held back. */
const RETRIES_PER_SECOND = 10;
const RETRY_BURST = 100;

export interface QueueOptions {
  name: string;
  clock: Clock;
  /** 0 to 1 */
  random: () => number;
  metrics?: KubeMetrics | undefined;
}

/**
 * Keys to work on. A key waits at most once, however often it is added, and is given to one worker at a time; added while it is worked on, it
 * waits until that work is done. Keys come out in the order in which they went in.
 *
 * A key is in some of these places: `waiting` (a worker may take it), `working` (a worker has it), `dirty` (has it, and it was added again),
 * `later` (a timer will add it).
 */
export class WorkQueue {
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #metrics: QueueMetrics | undefined;
  readonly #retries: TokenBucket;
  /** With the instant of the add. */
  readonly #waiting = new Map<string, number>();
  readonly #working = new Map<string, number>();
  readonly #dirty = new Map<string, number>();
  readonly #later = new Map<string, { at: number; cancel: () => void }>();
  readonly #failures = new Map<string, number>();
  readonly #takers: ((key: string | undefined) => void)[] = [];
  #closed = false;

  constructor({ name, clock, random, metrics }: QueueOptions) {
    this.#clock = clock;
    this.#random = random;
    this.#retries = new TokenBucket(RETRIES_PER_SECOND, RETRY_BURST, clock.now());
    const working = this.#working;
    const waiting = this.#waiting;
    this.#metrics = metrics?.queue(name, () => clock.now(), {
      get depth() {
        return waiting.size;
      },
      get workingSince() {
        return working.values();
      },
    });
  }

  /** Keys that a worker could take now. */
  get depth(): number {
    return this.#waiting.size;
  }

  add(key: string): void {
    if (this.#closed || this.#waiting.has(key) || this.#dirty.has(key)) return;
    this.#metrics?.added();
    const now = this.#clock.now();
    if (this.#working.has(key)) {
      this.#dirty.set(key, now);
      return;
    }
    this.#waiting.set(key, now);
    this.#serve();
  }

  /** Adds the key in `ms`. Of several such wishes for one key the earliest counts. */
  addAfter(key: string, ms: number): void {
    if (this.#closed) return;
    if (ms <= 0) {
      this.add(key);
      return;
    }
    const at = this.#clock.now() + ms;
    const known = this.#later.get(key);
    if (known) {
      if (known.at <= at) return;
      known.cancel();
    }
    const cancel = this.#clock.after(ms, () => {
      this.#later.delete(key);
      // A longer wait than a timer can hold comes in parts.
      const rest = at - this.#clock.now();
      if (rest > 1) this.addAfter(key, rest);
      else this.add(key);
    });
    this.#later.set(key, { at, cancel });
  }

  /** Adds a key whose work failed: later each time, at least `leastMs`, and not too many of all keys at once. Returns the wait in milliseconds. */
  retry(key: string, leastMs = 0): number {
    const failures = (this.#failures.get(key) ?? 0) + 1;
    this.#failures.set(key, failures);
    this.#metrics?.retried();
    const own = retryMs(failures, this.#random);
    const ms = Math.max(own, this.#retries.take(this.#clock.now()), leastMs);
    this.addAfter(key, ms);
    return ms;
  }

  /** The key's work succeeded: its next failure is the first again. */
  forget(key: string): void {
    this.#failures.delete(key);
  }

  /** Failures of the key in a row. */
  failures(key: string): number {
    return this.#failures.get(key) ?? 0;
  }

  /** The next key, as soon as there is one; `done` has to follow. Undefined when the queue is closed. */
  take(): Promise<string | undefined> {
    if (this.#closed) return Promise.resolve(undefined);
    return new Promise((resolve) => {
      this.#takers.push(resolve);
      this.#serve();
    });
  }

  /** The work on a key is over, well or not. */
  done(key: string): void {
    const began = this.#working.get(key);
    if (began === undefined) return;
    const now = this.#clock.now();
    this.#working.delete(key);
    this.#metrics?.worked((now - began) / 1000);
    const added = this.#dirty.get(key);
    this.#dirty.delete(key);
    if (added === undefined || this.#closed) return;
    this.#waiting.set(key, added);
    this.#serve();
  }

  /** Forgets what waits and sends the workers home. What they work on is theirs to end. */
  close(): void {
    this.#closed = true;
    for (const { cancel } of this.#later.values()) cancel();
    this.#later.clear();
    this.#waiting.clear();
    this.#dirty.clear();
    for (const taker of this.#takers.splice(0)) taker(undefined);
  }

  #serve(): void {
    for (const [key, added] of this.#waiting) {
      const taker = this.#takers.shift();
      if (!taker) return;
      const now = this.#clock.now();
      this.#waiting.delete(key);
      this.#working.set(key, now);
      this.#metrics?.waited((now - added) / 1000);
      taker(key);
    }
  }
}
