import type { Episode, EpisodeEvent } from "../../core/store.ts";
import { messageOf } from "../../lib/errors.ts";
import type { Logger } from "../../lib/logger.ts";
import { type EpisodeReply, type EventReply, episodeOf } from "./replies.ts";

export type Listener = (episode: Episode, event: EpisodeEvent, isOurs: boolean) => void;

/** Ended episodes whose end is remembered as told: more than can end while a router catches up. */
const ENDS_KEPT = 10_000;

/**
 * Tells the events of all episodes to this router's listeners, each once and in order, wherever they come from: the stream, or, when the
 * router was away for longer than the stream goes back, the episodes themselves.
 */
export class EventFeed {
  readonly #log: Logger;
  readonly #listeners = new Set<Listener>();
  /** Episodes that run, and the last event of each that was told. */
  readonly #running = new Map<number, { tenant: string; id: string; seq: number }>();
  readonly #ended = new Set<number>();
  /** The number of the last event that was told; undefined before the first connection. */
  #number: number | undefined;
  /** Where to read on in the stream. */
  last = "0-0";

  readonly #router: string;

  /** `router`: this one's name in the store. */
  constructor(log: Logger, router: string) {
    this.#log = log;
    this.#router = router;
  }

  get begun(): boolean {
    return this.#number !== undefined;
  }

  /** Episodes that ran when this was last told. */
  get running(): { tenant: string; id: string; seq: number }[] {
    return [...this.#running.values()];
  }

  listen(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Reads on from there; what came before is known, or read from the episodes. */
  begin(last: string, number: number): void {
    this.last = last;
    this.#number = number;
  }

  /** An episode that ran before this router came: its events until now are not news. */
  skip({ n, tenant, id, seq }: EpisodeReply): void {
    this.#running.set(n, { tenant, id, seq });
  }

  /** Takes what the stream has. False: events before these are missing, and nothing was told. */
  take(events: readonly EventReply[], last: string): boolean {
    const [first] = events;
    if (first && this.#number !== undefined && first.number !== this.#number + 1) return false;
    this.last = last;
    for (const { number, event, episode } of events) {
      this.#number = number;
      this.tell(episode, event);
    }
    return true;
  }

  tell(reply: EpisodeReply, { by, ...event }: EventReply["event"]): void {
    const { n, tenant, id } = reply;
    if (this.#ended.has(n) || event.seq <= (this.#running.get(n)?.seq ?? 0)) return;
    if (event.kind === "ended") {
      this.#running.delete(n);
      this.#ended.add(n);
      const [oldest] = this.#ended;
      if (this.#ended.size > ENDS_KEPT && oldest !== undefined) this.#ended.delete(oldest);
    } else this.#running.set(n, { tenant, id, seq: event.seq });
    const episode = episodeOf(reply);
    for (const listener of this.#listeners) {
      try {
        listener(episode, event, by === this.#router);
      } catch (error) {
        this.#log.error("a listener of episode events failed", { err: messageOf(error) });
      }
    }
  }

  close(): void {
    this.#listeners.clear();
  }
}
