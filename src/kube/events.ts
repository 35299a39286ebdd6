import { randomBytes } from "node:crypto";
import type { Clock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import type { Logger } from "../lib/logger.ts";
import { sleep } from "../lib/sleep.ts";
import { TokenBucket } from "./backoff.ts";
import type { Client } from "./client.ts";
import { ApiError, ConnectionError, isNotFound } from "./errors.ts";
import type { KubeMetrics } from "./metrics.ts";
import { type KubeObject, microTime } from "./object.ts";
import { RESOURCES } from "./resource.ts";

/** Writes about one object: so many at once, then one in five minutes (client-go's numbers). */
const BURST = 25;
const PER_SECOND = 1 / 300;
/** The same notice within this time, in milliseconds, is one more of a series; later it is a new event. */
const SERIES_MS = 6 * 60_000;
/** What is kept in memory: series, objects with a budget, events that wait to be sent. */
const MOST = 1000;
const TRIES = 3;
/** The server's limit, in bytes; `…` included. */
const NOTE_BYTES = 1024;

export interface Notice {
  type: "Normal" | "Warning";
  /** What happened, one word for machines: `Created`, `ModelNotFound`. */
  reason: string;
  /** What the controller did or tried: `CreateInstances`. */
  action: string;
  /** For a person: what it means and what to do. */
  note: string;
  related?: KubeObject;
}

export interface RecorderOptions {
  client: Pick<Client, "create" | "merge">;
  /** `llmpool.dev/operator` */
  controller: string;
  /** The pod's name. */
  instance: string;
  clock: Clock;
  log: Logger;
  metrics?: KubeMetrics | undefined;
}

interface Series {
  regarding: KubeObject;
  notice: Notice;
  count: number;
  firstWall: number;
  lastWall: number;
  lastAt: number;
  /** Of the stored event; undefined until it is. */
  name: string | undefined;
  waiting: boolean;
}

/** `events.k8s.io/v1` Event. */
interface Event extends KubeObject {
  eventTime: string;
  series?: { count: number; lastObservedTime: string };
  reportingController: string;
  reportingInstance: string;
  type: Notice["type"];
  reason: string;
  action: string;
  note: string;
  regarding: object;
  related?: object;
}

/** Tells people what happened to an object. Never throws, never waits, never fails its caller: an event may be lost. */
export class EventRecorder implements AsyncDisposable {
  readonly #options: RecorderOptions;
  readonly #closing = new AbortController();
  readonly #series = new Map<string, Series>();
  readonly #budgets = new Map<string, TokenBucket>();
  readonly #waiting: Series[] = [];
  #sending: Promise<void> | undefined;

  constructor(options: RecorderOptions) {
    this.#options = options;
  }

  /** @param regarding as stored: its uid tells it from an earlier object of the same name. */
  record(regarding: KubeObject, notice: Notice): void {
    if (this.#closing.signal.aborted) return;
    const series = this.#count(regarding, notice);
    // What waits anyway takes the count along.
    if (series.waiting) return;
    if (this.#waiting.length >= MOST || !this.#budget(regarding).tryTake(this.#options.clock.now())) {
      this.#options.metrics?.events("capped");
      return;
    }
    series.waiting = true;
    this.#waiting.push(series);
    this.#sending ??= this.#send().finally(() => {
      this.#sending = undefined;
    });
  }

  /** Resolves when everything recorded so far is sent or given up. */
  async flush(): Promise<void> {
    await this.#sending;
  }

  /** Drops what is not yet sent. */
  async close(): Promise<void> {
    this.#closing.abort(new Error("closed"));
    await this.#sending;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #count(regarding: KubeObject, notice: Notice): Series {
    const { clock } = this.#options;
    const { type, reason, action, note, related } = notice;
    const id = JSON.stringify([regarding.metadata.uid, type, reason, action, note, related?.metadata.uid]);
    const known = this.#series.get(id);
    const now = clock.now();
    const wall = clock.wall();
    const series: Series =
      known && now - known.lastAt < SERIES_MS
        ? known
        : {
            regarding,
            notice,
            count: 0,
            firstWall: wall,
            lastWall: wall,
            lastAt: now,
            name: undefined,
            waiting: false,
          };
    series.count++;
    series.lastAt = now;
    series.lastWall = wall;
    remember(this.#series, id, series);
    return series;
  }

  #budget({ metadata: { uid = "" } }: KubeObject): TokenBucket {
    const budget = this.#budgets.get(uid) ?? new TokenBucket(PER_SECOND, BURST, this.#options.clock.now());
    remember(this.#budgets, uid, budget);
    return budget;
  }

  async #send(): Promise<void> {
    const { clock, log, metrics } = this.#options;
    const { signal } = this.#closing;
    for (let series = this.#waiting.shift(); series && !signal.aborted; series = this.#waiting.shift()) {
      for (let tries = 1; ; tries++) {
        try {
          series.waiting = false;
          await this.#store(series, signal);
          metrics?.events("sent");
          break;
        } catch (error) {
          if (!signal.aborted && isTemporary(error) && tries < TRIES) {
            await sleep(clock, 1000 * tries, signal).catch(() => {});
            continue;
          }
          metrics?.events("failed");
          log.info("an event was not stored", { reason: series.notice.reason, error: messageOf(error) });
          break;
        }
      }
    }
  }

  async #store(series: Series, signal: AbortSignal): Promise<void> {
    const { client } = this.#options;
    const namespace = series.regarding.metadata.namespace ?? "default";
    if (series.name !== undefined) {
      try {
        const place = { namespace, name: series.name };
        await client.merge(RESOURCES.events, place, { series: toSeries(series) }, signal);
        return;
      } catch (error) {
        // Events live an hour: then the series goes on in a new one.
        if (!isNotFound(error)) throw error;
      }
    }
    const event = this.#toEvent(series, namespace);
    await client.create(event, { signal });
    series.name = event.metadata.name;
  }

  #toEvent(series: Series, namespace: string): Event {
    const { regarding, notice, firstWall, count } = series;
    const { controller, instance } = this.#options;
    const { type, reason, action, note, related } = notice;
    return {
      apiVersion: "events.k8s.io/v1",
      kind: "Event",
      metadata: { namespace, name: `${regarding.metadata.name.slice(0, 200)}.${randomBytes(8).toString("hex")}` },
      eventTime: microTime(firstWall),
      ...(count > 1 ? { series: toSeries(series) } : {}),
      reportingController: controller,
      reportingInstance: instance,
      type,
      reason,
      action,
      note: cutBytes(note),
      regarding: reference(regarding),
      ...(related ? { related: reference(related) } : {}),
    };
  }
}

function toSeries({ count, lastWall }: Series): { count: number; lastObservedTime: string } {
  return { count, lastObservedTime: microTime(lastWall) };
}

function reference({ apiVersion, kind, metadata: { namespace, name, uid, resourceVersion } }: KubeObject): object {
  return { apiVersion, kind, namespace, name, uid, resourceVersion };
}

function isTemporary(error: unknown): boolean {
  return (
    error instanceof ConnectionError || (error instanceof ApiError && (error.status === 429 || error.status >= 500))
  );
}

/** Sets, as the newest; the oldest go. */
function remember<V>(map: Map<string, V>, key: string, value: V): void {
  map.delete(key);
  map.set(key, value);
  for (const oldest of map.keys()) {
    if (map.size <= MOST) break;
    map.delete(oldest);
  }
}

function cutBytes(text: string): string {
  if (Buffer.byteLength(text) <= NOTE_BYTES) return text;
  let cut = Buffer.from(text)
    .subarray(0, NOTE_BYTES - 3)
    .toString();
  // Half a character at the end became a replacement character.
  cut = cut.replace(/\uFFFD+$/, "");
  return `${cut}…`;
}
