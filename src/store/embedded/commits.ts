import type { Episode, EpisodeEvent } from "../../core/store.ts";
import { backInSeconds, closedError } from "../../core/store-errors.ts";
import type { Clock } from "../../lib/clock.ts";
import { LLMPoolError, messageOf } from "../../lib/errors.ts";
import type { Logger } from "../../lib/logger.ts";
import type { Journal } from "./journal.ts";
import type { EpisodeRecord } from "./records.ts";

/** How long after a failed commit the next one is tried when no request asks for one before, in milliseconds. */
const RETRY_MS = 1_000;
/** How long what nobody waits for (settlements, progress) is collected, in milliseconds. A crash before leaves reservations to be proved. */
export const COLLECT_MS = 50;

type Listener = (episode: Episode, event: EpisodeEvent, isOurs: true) => void;

interface Batch {
  done: Promise<void>;
  resolve: () => void;
  reject: (error: LLMPoolError) => void;
  undo: (() => void)[];
}

/**
 * Group commit: all that happens in one turn of the event loop is one transaction at its end, and everyone who took part waits for that.
 * A turn with nothing but admissions appends only these to a log; what nobody waits for is collected over many turns.
 * When it fails, what must not happen unless it is durable (admissions, starts) is undone, and all who took part are refused; the rest
 * (tokens that were used, ends) stays true in memory and is written as soon as the disk allows. Events are told after the transaction.
 */
export class Commits {
  readonly #journal: Journal;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #listeners = new Set<Listener>();
  #batch: Batch | undefined;
  #outbox: { record: EpisodeRecord; event: EpisodeEvent; view: (record: EpisodeRecord) => Episode }[] = [];
  #immediate: NodeJS.Immediate | undefined;
  /** The next transaction takes everything, not only admissions. */
  #everything = false;
  #cancelCollect: (() => void) | undefined;
  #cancelRetry: () => void = () => {};
  /** On the clock's scale: since when nothing can be written. */
  #failingSince: number | undefined;
  #closed = false;

  constructor(journal: Journal, clock: Clock, log: Logger) {
    this.#journal = journal;
    this.#clock = clock;
    this.#log = log;
  }

  /** Takes part in this turn's transaction. Resolves when it is durable; rejects with `store_unavailable` after calling `undo`. */
  join(undo?: () => void): Promise<void> {
    this.#everything = true;
    return this.joinAdmissions(undo);
  }

  /** As `join`, for who needs no more than `Journal.commitAdmissions` writes. */
  joinAdmissions(undo?: () => void): Promise<void> {
    const batch = this.#open();
    if (undo) batch.undo.push(undo);
    return batch.done;
  }

  /** Sees to it that what was marked is written at the end of this turn. */
  soon(): void {
    this.#everything = true;
    this.#open();
  }

  /** Sees to it that what was marked is written within COLLECT_MS. */
  later(): void {
    if (this.#closed) throw closedError();
    this.#cancelCollect ??= this.#clock.after(COLLECT_MS, this.#collected);
  }

  /** Resolves when nothing waits that may still be undone. */
  async settled(): Promise<void> {
    await this.#batch?.done.catch(() => {});
  }

  /** Rejects when something that was done before is not durable yet and cannot be made so. */
  async durable(): Promise<void> {
    if (this.#batch || this.#journal.isDirty) await this.join();
  }

  /** `view` shows the episode as it is when the event is told. */
  emit(record: EpisodeRecord, event: EpisodeEvent, view: (record: EpisodeRecord) => Episode): void {
    this.#journal.addEvent(record, event);
    this.#outbox.push({ record, event, view });
    if (event.kind === "progress") this.later();
    else this.soon();
  }

  listen(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Writes what waits, then takes no more. */
  close(): void {
    if (this.#closed) return;
    this.#everything = true;
    if (this.#batch || this.#journal.isDirty) this.#flush();
    this.#closed = true;
    clearImmediate(this.#immediate);
    this.#cancelRetry();
    this.#cancelCollect?.();
    this.#listeners.clear();
  }

  #open(): Batch {
    if (this.#closed) throw closedError();
    if (!this.#batch) {
      const { promise: done, resolve, reject } = Promise.withResolvers<void>();
      done.catch(() => {}); // nobody has to wait
      this.#batch = { done, resolve, reject, undo: [] };
      this.#immediate = setImmediate(() => this.#flush());
    }
    return this.#batch;
  }

  readonly #collected = (): void => {
    this.#cancelCollect = undefined;
    if (!this.#closed) this.soon();
  };

  #flush(): void {
    clearImmediate(this.#immediate);
    const batch = this.#batch;
    // Settlements pile up while the tables cannot be written, so admissions wait until they can.
    const everything = this.#everything || this.#failingSince !== undefined;
    this.#batch = undefined;
    this.#everything = false;
    let failure: LLMPoolError | undefined;
    try {
      if (everything) this.#journal.commit();
      else this.#journal.commitAdmissions();
      if (this.#failingSince !== undefined) this.#log.info("the state directory can be written again");
      this.#failingSince = undefined;
    } catch (error) {
      failure = this.#failed(error);
      for (const undo of batch?.undo.reverse() ?? []) undo();
    }
    if (everything) this.#tellAll();
    if (failure) batch?.reject(failure);
    else batch?.resolve();
  }

  #tellAll(): void {
    this.#cancelCollect?.();
    this.#cancelCollect = undefined;
    const outbox = this.#outbox;
    this.#outbox = [];
    if (this.#listeners.size === 0) return;
    const views = new Map<EpisodeRecord, Episode>();
    for (const { record, event, view } of outbox) {
      if (record.gone && event.kind !== "ended") continue;
      const episode = views.get(record) ?? view(record);
      views.set(record, episode);
      this.#tell(episode, event);
    }
  }

  #failed(error: unknown): LLMPoolError {
    if (this.#failingSince === undefined)
      this.#log.error("the state directory cannot be written", { err: messageOf(error) });
    const now = this.#clock.now();
    this.#failingSince ??= now;
    this.#cancelRetry();
    this.#cancelRetry = this.#clock.after(RETRY_MS, () => {
      if (!this.#closed && this.#journal.isDirty) this.soon();
    });
    return new LLMPoolError("store_unavailable", `the state directory cannot be written: ${messageOf(error)}`, {
      cause: error,
      retryAfterSeconds: backInSeconds(now - this.#failingSince),
    });
  }

  #tell(episode: Episode, event: EpisodeEvent): void {
    for (const listener of this.#listeners) {
      try {
        listener(episode, event, true);
      } catch (error) {
        this.#log.error("a listener of episode events failed", { err: messageOf(error) });
      }
    }
  }
}
