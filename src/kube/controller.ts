import type { Clock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import type { Logger } from "../lib/logger.ts";
import { ApiError, isConflict } from "./errors.ts";
import type { Expectations } from "./expectations.ts";
import type { ControllerMetrics, KubeMetrics } from "./metrics.ts";
import { WorkQueue } from "./queue.ts";

/** How long one reconcile may take before it is aborted, in milliseconds. */
const DEADLINE_MS = 30_000;
/** How long an aborted reconcile may take to end before its worker goes on without it, in milliseconds. */
const GRACE_MS = 1_000;
/** How soon to look again whether the cache has come to the last write, in milliseconds; its events usually come first. */
const BEHIND_MS = 1_000;

/**
 * Brings what a key names to its specification, from what the caches show now. Rejects when it could not; then it is called again, later each
 * time. `signal` fires at the deadline and when the controller closes.
 */
export type Reconcile = (key: string, signal: AbortSignal) => Promise<{ requeueAfterMs?: number | undefined }>;

/** What a reconcile rejects with that is tried again later each time, but within `withinMs` at the latest, unless a server asked for longer. */
export class UnfinishedError extends AggregateError {
  override readonly name = "UnfinishedError";
  readonly withinMs: number | undefined;

  constructor(causes: readonly unknown[], message: string, withinMs: number | undefined) {
    super(causes, message);
    this.withinMs = withinMs;
  }
}

export interface ControllerOptions {
  name: string;
  reconcile: Reconcile;
  /** Waited for before the first reconcile. */
  informers: readonly { whenSynced(signal: AbortSignal): Promise<void> }[];
  /** What each key still has to see of its own writes. */
  expectations?: Expectations;
  /** Keys worked on at the same time. */
  workers?: number;
  clock: Clock;
  random: () => number;
  log: Logger;
  metrics?: KubeMetrics | undefined;
}

/** Calls `reconcile` for keys, never twice at once for one. One that fails or hangs holds up no other. */
export class Controller implements AsyncDisposable {
  readonly queue: WorkQueue;
  readonly #options: ControllerOptions;
  readonly #workers: number;
  readonly #metrics: ControllerMetrics | undefined;
  readonly #closing = new AbortController();
  #running: Promise<void> | undefined;
  #active = 0;

  constructor(options: ControllerOptions) {
    const { name, clock, random, metrics, workers = 4 } = options;
    this.#options = options;
    this.#workers = workers;
    this.queue = new WorkQueue({ name, clock, random, metrics });
    this.#metrics = metrics?.controller(name, workers);
  }

  /** Keys may be added before; they wait for the informers. */
  start(): void {
    this.#running ??= this.#run(this.#closing.signal);
  }

  /** Aborts what is going on and waits for it, but not for reconciles that ignored their signal. */
  async close(): Promise<void> {
    this.queue.close();
    this.#closing.abort(new Error("the controller closes"));
    await this.#running;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #run(signal: AbortSignal): Promise<void> {
    try {
      await Promise.all(this.#options.informers.map((informer) => informer.whenSynced(signal)));
    } catch {
      return; // closed before
    }
    await Promise.all(Array.from({ length: this.#workers }, () => this.#work()));
  }

  async #work(): Promise<void> {
    for (;;) {
      const key = await this.queue.take();
      if (key === undefined) return;
      if (this.#options.expectations?.behind(key)) {
        this.#metrics?.deferred();
        this.queue.addAfter(key, BEHIND_MS);
        this.queue.done(key);
        continue;
      }
      await this.#attempt(key);
    }
  }

  /** One reconcile. Ends with it, or when it ignores its abort: then the key stays taken until it ends, and the worker is free. */
  async #attempt(key: string): Promise<void> {
    const { clock, reconcile, log, name } = this.#options;
    const abort = new AbortController();
    const abandoned = Promise.withResolvers<void>();
    const began = clock.now();
    let cancelGrace = () => {};
    const stop = (reason: unknown) => {
      abort.abort(reason);
      cancelGrace = clock.after(GRACE_MS, () => {
        log.error("a reconcile ignores its abort", { controller: name, key });
        abandoned.resolve();
      });
    };
    const cancelDeadline = clock.after(DEADLINE_MS, () => {
      this.#metrics?.timedOut();
      stop(new Error(`not done within ${DEADLINE_MS / 1000} s`));
    });
    const onClose = () => stop(this.#closing.signal.reason);
    this.#closing.signal.addEventListener("abort", onClose, { once: true });
    this.#metrics?.active(++this.#active);

    const run = (async () => reconcile(key, abort.signal))()
      .then(
        ({ requeueAfterMs }) => this.#succeeded(key, clock.now() - began, requeueAfterMs),
        (error: unknown) => this.#failed(key, clock.now() - began, error),
      )
      .finally(() => {
        cancelDeadline();
        cancelGrace();
        this.#closing.signal.removeEventListener("abort", onClose);
        this.#metrics?.active(--this.#active);
        this.queue.done(key);
      });
    await Promise.race([run, abandoned.promise]);
  }

  #succeeded(key: string, ms: number, requeueAfterMs: number | undefined): void {
    this.queue.forget(key);
    if (requeueAfterMs !== undefined) this.queue.addAfter(key, requeueAfterMs);
    this.#metrics?.reconciled(requeueAfterMs === undefined ? "success" : "requeue_after", ms / 1000);
  }

  #failed(key: string, ms: number, error: unknown): void {
    if (this.#closing.signal.aborted) return;
    const { log, name } = this.#options;
    const causes: unknown[] = error instanceof AggregateError ? error.errors : [error];
    const asked = causes.map((cause) => (cause instanceof ApiError ? (cause.retryAfterMs ?? 0) : 0));
    let waitMs = this.queue.retry(key, Math.max(0, ...asked));
    if (error instanceof UnfinishedError && error.withinMs !== undefined) {
      const withinMs = Math.max(error.withinMs, ...asked);
      this.queue.addAfter(key, withinMs);
      waitMs = Math.min(waitMs, withinMs);
    }
    this.#metrics?.reconciled("error", ms / 1000);
    const fields = { controller: name, key, in_ms: Math.round(waitMs), error: messageOf(error) };
    // To lose a race is part of the day.
    if (causes.every(isConflict)) log.info("reconcile lost a race, trying again", fields);
    else log.error("reconcile failed, trying again", fields);
  }
}
