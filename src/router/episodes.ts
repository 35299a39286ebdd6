import type { ServerResponse } from "node:http";
import { setImmediate } from "node:timers/promises";
import type { EpisodeCreate } from "../api/http.ts";
import type { PoolPlan } from "../core/plan/types.ts";
import type { Episode, EpisodeEvent, EpisodeSettings, StateStore } from "../core/store.ts";
import { Bag, type Bagged } from "../lib/bag.ts";
import type { Clock } from "../lib/clock.ts";
import { LLMPoolError } from "../lib/errors.ts";
import { EventStream } from "./event-stream.ts";
import { endObject, eventObject, heartbeatObject } from "./views.ts";

/** What an episode may do: the pool's settings, which a caller can only lower. */
export function episodeSettings(plan: PoolPlan, asked: EpisodeCreate = {}): EpisodeSettings {
  const { episodes, budgets } = plan.router;
  const max = Math.min(asked.max_timeout_s ?? episodes.maxTimeoutSeconds, episodes.maxTimeoutSeconds);
  const timeout = Math.min(asked.timeout_s ?? episodes.timeoutSeconds, episodes.timeoutSeconds, max);
  return {
    timeoutSeconds: timeout,
    progressExtendSeconds: Math.min(asked.extend_s ?? episodes.progressExtendSeconds, episodes.progressExtendSeconds),
    maxTimeoutSeconds: max,
    idleTimeoutSeconds: episodes.idleTimeoutSeconds,
    retainSeconds: episodes.retainSeconds,
    budgetTokens: lower(asked.budget_tokens, budgets.episodeTokens),
  };
}

const NAMES_A_SESSION = /session/;

/** The error that an ended episode answers, by why it ended. `from`: the header or field that named it. */
export function endedError(episode: Episode, from = "x-episode-id"): LLMPoolError {
  const expired =
    episode.endReason === "deadline" || episode.endReason === "max_deadline" || episode.endReason === "idle";
  const how = expired ? `reached its limit (${episode.endReason})` : (episode.endReason ?? "ended");
  const start = NAMES_A_SESSION.test(from)
    ? "a session id that ends in a role names the episode: begin it with another"
    : "start another";
  return new LLMPoolError("episode_ended", `episode ${episode.id} has ended: ${how}; ${start}`, { param: from });
}

/** Work of an episode is cut off with this when the episode ends while it runs. */
export function abortError(episode: Episode): LLMPoolError {
  if (episode.endReason === "finished" || episode.endReason === "cancelled") return endedError(episode);
  return new LLMPoolError(
    "episode_deadline_exceeded",
    `episode ${episode.id} ended while this ran: ${episode.endReason}`,
  );
}

function overdueError(id: string): LLMPoolError {
  return new LLMPoolError("episode_deadline_exceeded", `the deadline of episode ${id} came while the store was away`);
}

/** How often a router that does not write the heartbeats looks whether it has to, in milliseconds. */
const STAND_BY_MS = 1_000;
const BEATS_AT_ONCE = 100;

/** Something that runs for an episode. */
export interface EpisodeWork extends Bagged {
  /** The episode has this much time from now on, in milliseconds. */
  extended(remainingMs: number): void;
  /** It is over, and so is this. */
  ended(reason: LLMPoolError): void;
}

export interface EpisodeWatchDeps {
  store: StateStore;
  clock: Clock;
  plan: () => PoolPlan;
  /** Ids of instances on which the episode runs or has sessions. */
  instancesOf: (tenant: string, episodeId: string) => string[];
  /** It has run on one of them, whichever router asked for it. */
  onRan: (tenant: string, episodeId: string, instance: string) => void;
  /** Receives the lines of heartbeats and ends. */
  writeLine: (line: string) => void;
  /** `isOurs`: this router ended it; one of all counts it. */
  onEnded: (episode: Episode, isOurs: boolean) => void;
}

/** Turns the store's events into aborts, heartbeat lines and SSE streams. One per router. */
export class EpisodeWatch {
  readonly #deps: EpisodeWatchDeps;
  /** Running requests by episode, so that an end can cut them off. */
  readonly #running = new Map<string, Bag<EpisodeWork>>();
  /** Those that ended since the beat before the last: work that was admitted in that very moment is told, too. */
  #ended = new Map<string, LLMPoolError>();
  #endedBefore = new Map<string, LLMPoolError>();
  /** Those that the store is asked about, because their end is due. */
  readonly #overdue = new Set<string>();
  readonly #subscribers = new Map<string, Set<EventStream>>();
  /** Active episodes; heartbeats need no question to the store for the others. */
  readonly #active = new Map<string, { tenant: string; id: string }>();
  readonly #unsubscribe: () => void;
  #cancelBeat: () => void = () => {};
  #cancelStandBy: () => void = () => {};
  #leaving = false;
  #closed = false;

  constructor(deps: EpisodeWatchDeps) {
    this.#deps = deps;
    this.#unsubscribe = deps.store.onEpisodeEvent((episode, event, isOurs) => this.#onEvent(episode, event, isOurs));
    this.#beatLater(deps.clock.now());
  }

  /** Episodes that were active before this router started go on beating. */
  adopt(episodes: readonly Episode[]): void {
    for (const { tenant, id, state } of episodes)
      if (state === "active") this.#active.set(keyOf(tenant, id), { tenant, id });
  }

  get activeCount(): number {
    return this.#active.size;
  }

  /** Tells `work` what becomes of the episode, until the returned function is called. */
  track(tenant: string, episodeId: string, work: EpisodeWork): () => void {
    const key = keyOf(tenant, episodeId);
    const over = this.#ended.get(key) ?? this.#endedBefore.get(key);
    if (over) work.ended(over);
    let bag = this.#running.get(key);
    if (!bag) {
      bag = new Bag();
      this.#running.set(key, bag);
    }
    bag.add(work);
    return () => {
      bag.delete(work);
      if (bag.size === 0) this.#running.delete(key);
    };
  }

  /**
   * Work goes on at an instant when its episode should have ended: the store says whether it has. While nobody can say, it has: what is
   * generated past the deadline is not wanted, and only the store can move that.
   */
  async overdue(tenant: string, id: string): Promise<void> {
    const key = keyOf(tenant, id);
    if (this.#overdue.has(key)) return;
    this.#overdue.add(key);
    const episode = await this.#deps.store.episode(tenant, id).catch(() => undefined);
    this.#overdue.delete(key);
    for (const work of this.#running.get(key)?.list() ?? []) {
      if (episode?.state === "active") work.extended(episode.remainingMs);
      else work.ended(episode ? abortError(episode) : overdueError(id));
    }
  }

  /** Answers `GET /v1/episodes/{id}/events`: what came after `after`, then what comes, until the end of the episode. */
  async stream(tenant: string, id: string, after: number, res: ServerResponse): Promise<void> {
    const { store } = this.#deps;
    const episode = await store.episode(tenant, id);
    if (!episode) throw new LLMPoolError("not_found", `no episode "${id}"`, { param: "id" });
    // Whoever left while that was asked closes no more.
    if (res.destroyed) return;
    const key = keyOf(tenant, id);
    const stream = new EventStream(res, after, () => this.#unsubscribeFrom(key, stream));
    // Subscribed before reading: nothing in between is missed.
    this.#subscribers.set(key, (this.#subscribers.get(key) ?? new Set()).add(stream));
    const replay = async () => {
      for (const event of await store.episodeEvents(tenant, id, stream.last))
        stream.replay(event.kind, eventObject(id, event), event.seq);
    };
    await replay();
    stream.live();
    if ((await store.episode(tenant, id))?.state === "active" && !this.#leaving) return;
    // Its end may be on the way still.
    await replay();
    stream.end();
  }

  /** Ends the streams, which go on at another router. All else goes on for the calls that run still. */
  leave(): void {
    this.#leaving = true;
    for (const key of this.#subscribers.keys()) this.#endStreams(key);
  }

  close(): void {
    this.leave();
    this.#closed = true;
    this.#unsubscribe();
    this.#cancelBeat();
    this.#cancelStandBy();
  }

  #unsubscribeFrom(key: string, stream: EventStream): void {
    const set = this.#subscribers.get(key);
    set?.delete(stream);
    if (set?.size === 0) this.#subscribers.delete(key);
  }

  #endStreams(key: string): void {
    const streams = this.#subscribers.get(key) ?? [];
    this.#subscribers.delete(key);
    for (const stream of streams) stream.end();
  }

  #onEvent(episode: Episode, event: EpisodeEvent, isOurs: boolean): void {
    const { tenant, id } = episode;
    const key = keyOf(tenant, id);
    if (event.kind === "started") {
      this.#active.set(key, { tenant, id });
      this.#ended.delete(key);
      this.#endedBefore.delete(key);
    }
    const subscribers = this.#subscribers.get(key);
    if (subscribers) {
      const data = eventObject(id, event);
      for (const subscriber of subscribers) subscriber.send(event.kind, data, event.seq);
    }
    if (event.kind === "extended") {
      for (const work of this.#running.get(key)?.list() ?? []) work.extended(episode.remainingMs);
    }
    const { instance } = event.data;
    if (typeof instance === "string") this.#deps.onRan(tenant, id, instance);
    if (event.kind !== "ended") return;
    this.#active.delete(key);
    const { writeLine, onEnded } = this.#deps;
    if (isOurs) writeLine(JSON.stringify(endObject(episode)));
    onEnded(episode, isOurs);
    const reason = abortError(episode);
    this.#ended.set(key, reason);
    for (const work of this.#running.get(key)?.list() ?? []) work.ended(reason);
    this.#endStreams(key);
  }

  /** Beats on a fixed grid, so that slow beats do not drift. */
  #beatLater(last: number): void {
    const { clock, plan } = this.#deps;
    const everyMs = plan().router.episodes.heartbeatSeconds * 1000;
    const next = Math.max(last + everyMs, clock.now());
    this.#cancelBeat();
    this.#cancelBeat = clock.after(next - clock.now(), () => {
      void this.#beat().finally(() => {
        if (!this.#closed) this.#beatLater(next);
      });
    });
  }

  /** Every router tells its own streams; one of all writes the lines. */
  async #beat(): Promise<void> {
    const { store, instancesOf, writeLine } = this.#deps;
    [this.#endedBefore, this.#ended] = [this.#ended, new Map()];
    const isOnDuty = store.heartbeatDuty();
    if (!isOnDuty) this.#standBy();
    const told = [...this.#active]
      .filter(([key]) => isOnDuty || this.#subscribers.has(key))
      .map(([, episode]) => episode);
    // A few at a time, with room for calls in between: ten thousand lines in one go would hold up every stream.
    for (let at = 0; at < told.length; at += BEATS_AT_ONCE) {
      const episodes = await store.episodesById(told.slice(at, at + BEATS_AT_ONCE)).catch(() => []);
      for (const episode of episodes) {
        if (episode.state !== "active" || this.#closed) continue;
        const beat = heartbeatObject(episode, instancesOf(episode.tenant, episode.id));
        if (isOnDuty) writeLine(JSON.stringify(beat));
        const subscribers = this.#subscribers.get(keyOf(episode.tenant, episode.id)) ?? [];
        for (const subscriber of subscribers) subscriber.send("heartbeat", beat);
      }
      await setImmediate();
    }
  }

  /** Takes over without waiting for the next beat: nobody knows how long ago the last was. From then on beats count from this one. */
  #standBy(): void {
    const { clock, store } = this.#deps;
    this.#cancelStandBy();
    this.#cancelStandBy = clock.after(STAND_BY_MS, () => {
      if (this.#closed) return;
      if (!store.heartbeatDuty()) {
        this.#standBy();
        return;
      }
      this.#beatLater(clock.now());
      void this.#beat();
    });
  }
}

function lower(asked: number | undefined, pool: number): number {
  if (asked === undefined) return pool;
  return pool === 0 ? asked : Math.min(asked, pool);
}

function keyOf(tenant: string, id: string): string {
  return `${tenant}\n${id}`;
}
