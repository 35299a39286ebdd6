import type { Clock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import type { Logger } from "../lib/logger.ts";
import { sleep } from "../lib/sleep.ts";
import type { Client, Selection } from "./client.ts";
import { runDoubted } from "./doubt.ts";
import { ApiError, ConnectionError, isGone, isTooLargeVersion } from "./errors.ts";
import type { KubeMetrics, WatchFailure } from "./metrics.ts";
import type { KubeObject } from "./object.ts";
import { pathOf, type Resource } from "./resource.ts";
import { MalformedEventError, readWatch, type WatchEvent } from "./watch.ts";

/** Objects a page of the list. */
const PAGE = 500;
/** A watch that ended sooner counts as a failure, or a server that ends every one at once would be asked without pause. */
const SHORT_MS = 1_000;

export interface ReflectorOptions extends Selection {
  client: Client;
  resource: Resource;
  clock: Clock;
  /** 0 to 1 */
  random: () => number;
  log: Logger;
  metrics?: KubeMetrics | undefined;
}

/** Where the objects go. */
export interface Sink<T extends KubeObject> {
  /** What is kept of an object. Asked as it comes, so that a long list is never held whole. */
  keep(object: T): T;
  /** Everything that exists: what is not in it is gone. */
  replaced(objects: T[]): void;
  changed(object: T): void;
  removed(object: T): void;
}

/**
 * Keeps a sink equal to a collection of the API server, until it is closed: lists it page by page, then follows the changes. Whatever fails is
 * tried again, for ever, after 1 to 30 s; changes are taken up from the last version that was seen, and when that is too old by a new list.
 */
export class Reflector<T extends KubeObject> implements AsyncDisposable {
  readonly #options: ReflectorOptions;
  readonly #sink: Sink<T>;
  readonly #log: Logger;
  readonly #closing = new AbortController();
  #running: Promise<void> | undefined;
  #relist: (() => void) | undefined;
  #version: string | undefined;
  #listedAt: number | undefined;
  /** Where the last malformed line was: a second one at the same place will not get better. */
  #malformedAt: string | undefined;

  constructor(options: ReflectorOptions, sink: Sink<T>) {
    this.#options = options;
    this.#sink = sink;
    this.#log = options.log.child({ resource: options.resource.plural });
  }

  /** How far the sink is; undefined before the first list and while a new one is needed. */
  get version(): string | undefined {
    return this.#version;
  }

  /** When the newest list that is in the sink was asked for, on the clock: it holds all that was answered before. */
  get listedAt(): number | undefined {
    return this.#listedAt;
  }

  start(): void {
    this.#running ??= this.#run(this.#closing.signal);
  }

  /** Lists again now, if it is watching; else it will by itself. */
  relist(): void {
    this.#relist?.();
  }

  async close(): Promise<void> {
    this.#closing.abort(new Error("closed"));
    await this.#running;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #run(signal: AbortSignal): Promise<void> {
    const { clock, random } = this.#options;
    for (let failures = 0; !signal.aborted; ) {
      let watchedAt = Number.POSITIVE_INFINITY;
      let failure: unknown;
      try {
        if (this.#version === undefined) await this.#list(signal);
        watchedAt = clock.now();
        await this.#follow(signal);
      } catch (error) {
        failure = error;
      }
      if (signal.aborted) return;
      if (failure instanceof RelistError) {
        this.#version = undefined;
        continue;
      }
      const lasted = clock.now() - watchedAt >= SHORT_MS;
      if (lasted) failures = 0;
      if (failure === undefined && lasted) continue;
      failures++;
      this.#judge(failure, failures);
      // The usual 410 after a long absence is cured by the list, without a wait.
      if (isGone(failure) && failures === 1) continue;
      await sleep(clock, recoveryMs(failures, random), signal).catch(() => {});
    }
  }

  /** Notes a failure, and whether the next try has to begin with a list. */
  #judge(failure: unknown, failures: number): void {
    const cause = causeOf(failure);
    this.#options.metrics?.watchFailed(this.#options.resource.plural, cause);
    const fields = { cause, failures, error: failure === undefined ? "the watch ended at once" : messageOf(failure) };
    if (failures > 3) this.#log.warn("cannot list or watch, trying again", fields);
    else this.#log.info("list or watch interrupted", fields);
    const again = failure instanceof MalformedEventError && this.#malformedAt === this.#version;
    if (failure instanceof MalformedEventError) this.#malformedAt = this.#version;
    const temporary =
      failure === undefined ||
      failure instanceof ConnectionError ||
      (failure instanceof MalformedEventError && !again) ||
      (failure instanceof ApiError && (failure.status === 429 || failure.status >= 500) && !isTooLargeVersion(failure));
    if (!temporary) this.#version = undefined;
  }

  async #list(signal: AbortSignal): Promise<void> {
    const { client, resource, clock, metrics } = this.#options;
    const askedAt = clock.now();
    const objects: T[] = [];
    let version: string | undefined;
    let next: string | undefined;
    do {
      // Without a resourceVersion: the newest there is, never an older cache of the server's.
      const page = await client.list<T>(resource, { ...this.#selection(), limit: PAGE, continue: next }, signal);
      for (const object of page.items) objects.push(this.#sink.keep(object));
      version ??= page.metadata.resourceVersion;
      next = page.metadata.continue || undefined;
    } while (next !== undefined);
    // Whoever answers 200 and no list must not empty the cache.
    if (version === undefined) throw new ConnectionError(`LIST ${resource.plural}`, new Error("the answer is no list"));
    metrics?.listed(resource.plural);
    this.#sink.replaced(objects);
    this.#version = version;
    this.#listedAt = askedAt;
  }

  /** Follows the changes until the server ends the watch. */
  async #follow(closing: AbortSignal): Promise<void> {
    const { client, resource, clock, random, metrics } = this.#options;
    const { namespace, ...selectors } = this.#selection();
    const path = pathOf(resource, { namespace });
    const relist = new AbortController();
    this.#relist = () => relist.abort(new RelistError());
    const open = (onActivity: () => void, signal: AbortSignal) => {
      metrics?.watched(resource.plural);
      const timeoutSeconds = Math.round(300 * (1 + random()));
      const query = { ...selectors, resourceVersion: this.#version, timeoutSeconds };
      const onEvent = (event: WatchEvent<T>) => this.#take(event);
      return readWatch<T>(client, { path, query }, { onActivity, onEvent }, signal);
    };
    const onSilent = () => {
      metrics?.watchFailed(resource.plural, "silent");
      this.#log.info("a watch was silent while another was not");
    };
    try {
      await runDoubted({ clock, open, onSilent }, AbortSignal.any([closing, relist.signal]));
    } finally {
      this.#relist = undefined;
    }
  }

  #take(event: WatchEvent<T>): void {
    if (event.type === "BOOKMARK") {
      this.#version = event.version;
      return;
    }
    if (event.type === "DELETED") this.#sink.removed(event.object);
    else this.#sink.changed(this.#sink.keep(event.object));
    this.#version = event.object.metadata.resourceVersion;
  }

  #selection(): Selection {
    const { namespace, labelSelector, fieldSelector } = this.#options;
    return { namespace, labelSelector, fieldSelector };
  }
}

class RelistError extends Error {
  constructor() {
    super("a new list was asked for");
  }
}

/** Milliseconds before try number `failures` + 1: 1 s and a random part that doubles up to 29 s, so that clients do not come back together. */
export function recoveryMs(failures: number, random: () => number): number {
  return 1_000 + random() * (Math.min(30_000, 2_000 * 2 ** Math.min(failures - 1, 5)) - 1_000);
}

function causeOf(failure: unknown): WatchFailure {
  if (failure === undefined) return "short";
  if (isGone(failure)) return "gone";
  if (failure instanceof MalformedEventError) return "malformed";
  if (failure instanceof ApiError) return "refused";
  return failure instanceof ConnectionError ? "connection" : "other";
}
