import type { Usage } from "../../api/backend.ts";
import type { EndReason, ProgressEvent } from "../../api/http.ts";
import type { AuditEntry } from "../../core/audit.ts";
import type {
  Admission,
  AdmitRequest,
  Binding,
  BudgetClaim,
  BudgetView,
  Episode,
  EpisodeEvent,
  EpisodeStart,
  Placement,
  Reservation,
  StateStore,
} from "../../core/store.ts";
import { checkAdmit, endedError, noEpisodeError, takenError } from "../../core/store-errors.ts";
import type { Clock } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import type { Logger } from "../../lib/logger.ts";
import { unavailable } from "./connection.ts";
import type { EventFeed } from "./event-feed.ts";
import type { Journal } from "./journal.ts";
import type { KnownBindings } from "./known-bindings.ts";
import { DUTY_MS, type Link } from "./link.ts";
import type { QuietDenials } from "./quiet-denials.ts";
import {
  type AdmitReply,
  type BudgetReply,
  budgetOf,
  type EpisodeReply,
  type EventReply,
  type EventsReply,
  episodeOf,
  type LuaList,
  listOf,
  type ReservationReply,
  reservationOf,
} from "./replies.ts";
import { TICK_EVENTS } from "./scripts/scripts.ts";
import type { SpentBudgets } from "./spent-budgets.ts";

/** How often a router looks what time and the other routers have brought, in milliseconds. */
const TICK_MS = 200;
/** How long a router that starts waits for others after a restart of the server, in milliseconds: longer than their leases. */
const OPEN_MS = 20_000;
/** Until when after the last renewal of its lease a router may spend what it has reserved, in milliseconds. */
const TRUST_MS = 8_000;
/**
 * So many timed looks of one router must find another one late before that is taken for gone. Together they last longer than TRUST_MS, so
 * by then the late one spends nothing any more, whatever the server's clock did.
 */
export const LATE_TICKS = 50;

export interface RedisParts {
  link: Link;
  journal: Journal;
  feed: EventFeed;
  clock: Clock;
  random: (bytes: number) => Uint8Array;
  log: Logger;
  known: KnownBindings;
  spent: SpentBudgets;
  quiet: QuietDenials;
  lateTicks: number;
}

/**
 * The StateStore of several routers: each method is one script on the pool's Redis, and the scripts decide. What a router keeps in memory is
 * what it can lose: where sessions were last seen, and its own open reservations, which it tells the store again after a failover. While
 * the store cannot be asked, everything is denied; settlements are kept and brought later.
 */
export class RedisStore implements StateStore {
  readonly #parts: RedisParts;
  #duty = false;
  #renewedAt = Number.NEGATIVE_INFINITY;
  /** When it last looked for routers that are late. */
  #lookedAt = Number.NEGATIVE_INFINITY;
  #overruns = 0;
  /** It has been told that the store is away. */
  #isAway = false;
  /** From the last look to the next deadline of an episode, in milliseconds. */
  #nextMs = Number.POSITIVE_INFINITY;
  #polling: Promise<void> = Promise.resolve();
  /** Asked for, and not begun. */
  #nextPoll: Promise<void> | undefined;
  #cancelTick: () => void = () => {};
  #closing: Promise<void> | undefined;

  constructor(parts: RedisParts) {
    this.#parts = parts;
    parts.feed.listen(({ tenant, id }, { kind }) => {
      if (kind === "ended") parts.spent.forgetEpisode(tenant, id);
    });
  }

  /** Settlements of more than was reserved since the start: each is an instance that broke its hard limit. */
  get overruns(): number {
    return this.#overruns;
  }

  /** Connects; rejects when that cannot be. */
  async open(): Promise<void> {
    const { link, clock } = this.#parts;
    for (const began = clock.now(); ; ) {
      await this.#join();
      if (link.ready) break;
      if (clock.now() - began > OPEN_MS) link.mustBeReady();
      await new Promise<void>((resolve) => clock.after(TICK_MS, resolve));
    }
    await this.#tick();
    this.#tickLater();
  }

  /**
   * Does now what is done several times a second: renews the lease, ends what is due, tells the events. One that has not begun yet does for
   * all who ask meanwhile. Rejects never.
   */
  poll(): Promise<void> {
    if (this.#nextPoll !== undefined) return this.#nextPoll;
    const poll = this.#polling.then(() => {
      this.#nextPoll = undefined;
      return this.#poll();
    });
    this.#nextPoll = poll;
    this.#polling = poll;
    return poll;
  }

  async #poll(): Promise<void> {
    if (this.#closing !== undefined) return;
    const { link, log } = this.#parts;
    try {
      if (!link.ready) await this.#join();
      if (!link.ready) return;
      if (this.#isAway) log.info("the store is back");
      this.#isAway = false;
      await this.#tick();
      for (const [requestId, usage] of this.#parts.journal.unsettled) await this.#settle(requestId, usage);
    } catch (error) {
      if (!this.#isAway) log.error("the store is away: what needs it is denied", { err: messageOf(error) });
      this.#isAway = true;
    }
  }

  async admit(request: AdmitRequest): Promise<Admission> {
    checkAdmit(request);
    const { link, journal, known, spent, quiet } = this.#parts;
    link.mustBeOpen();
    const without = spent.denies(request);
    if (without) {
      quiet.note(request, without);
      return { ok: false, code: "budget_exhausted", budget: without };
    }
    link.mustBeReady();
    const { requestId, tenant, instance, episode, ...rest } = request;
    const args = { ...rest, id: requestId, tenant, instance, episode: episode && startOf(tenant, episode.id, episode) };
    const { joins } = link;
    let reply: AdmitReply;
    try {
      reply = await link.call<AdmitReply>("admit", args);
    } catch (error) {
      if (!link.ready) journal.unsure(requestId);
      throw error;
    }
    if (link.joins !== joins) {
      // What this router said that it holds did not have this.
      journal.unsure(requestId);
      throw unavailable("the store was joined again meanwhile");
    }
    if (reply.ended) return { ok: false, code: "episode_ended", episode: episodeOf(reply.ended) };
    if (reply.denied) {
      const budget = budgetOf(reply.denied);
      spent.note(request, budget);
      return { ok: false, code: "budget_exhausted", budget };
    }
    journal.admitted(requestId, reply.hold);
    if (reply.binding) known.set(reply.binding);
    return {
      ok: true,
      reserved: reply.reserved ?? 0,
      instance: reply.instance ?? instance,
      budgets: listOf(reply.budgets).map(budgetOf),
      ...(reply.episode && { episode: episodeOf(reply.episode) }),
    };
  }

  async settle(requestId: string, usage: Usage | null): Promise<void> {
    const { link, journal } = this.#parts;
    link.mustBeOpen();
    journal.settling(requestId, usage);
    await this.#settle(requestId, usage);
  }

  async openReservations(): Promise<Reservation[]> {
    return this.#reservations(false);
  }

  async abandonedReservations(): Promise<Reservation[]> {
    return this.#reservations(true);
  }

  holds(requestId: string): boolean {
    const { journal, clock } = this.#parts;
    if (!journal.isHeld(requestId)) return true;
    return !journal.isLost(requestId) && clock.now() - this.#renewedAt < TRUST_MS;
  }

  async startEpisode(tenant: string, start: EpisodeStart): Promise<Episode> {
    const { link, random } = this.#parts;
    const id = start.id ?? `ep_${Buffer.from(random(16)).toString("hex")}`;
    const reply = await link.call<{ known?: EpisodeReply; episode: EpisodeReply }>("startEpisode", {
      episode: startOf(tenant, id, start),
    });
    if (reply.known?.reason) throw endedError(id, reply.known.reason);
    if (reply.known) throw takenError(id);
    void this.poll();
    return episodeOf(reply.episode);
  }

  async episode(tenant: string, id: string): Promise<Episode | undefined> {
    const { episode } = await this.#parts.link.call<{ episode?: EpisodeReply }>("episode", { who: `${tenant}/${id}` });
    return episode && episodeOf(episode);
  }

  async episodesById(asked: readonly { tenant: string; id: string }[]): Promise<Episode[]> {
    const whos = asked.map(({ tenant, id }) => `${tenant}/${id}`);
    return (await this.#episodes({ whos })).map(episodeOf);
  }

  async episodes(tenant: string): Promise<Episode[]> {
    return (await this.#episodes({ tenant })).map(episodeOf);
  }

  async activeEpisodes(): Promise<Episode[]> {
    return (await this.#episodes({})).map(episodeOf);
  }

  async progress(tenant: string, id: string, event: ProgressEvent, detail?: string): Promise<Episode> {
    const { episode, before } = await this.#change(tenant, id, { event, detail });
    if (before) throw endedError(id, episode.endReason);
    return episode;
  }

  async endEpisode(tenant: string, id: string, reason: EndReason): Promise<Episode> {
    const { episode } = await this.#change(tenant, id, { reason });
    void this.poll();
    return episode;
  }

  async episodeEvents(tenant: string, id: string, after: number): Promise<EpisodeEvent[]> {
    return (await this.#events(tenant, id, after)).events.map(({ by: _, ...event }) => event);
  }

  async audit(tenant: string, id: string, after: number): Promise<AuditEntry[]> {
    const args = { who: `${tenant}/${id}`, after };
    const { list, before } = await this.#parts.link.call<{ list: LuaList<string>; before: number }>("audit", args);
    return listOf(list).map((json, i) => ({ seq: before + 1 + i, ...(JSON.parse(json) as Omit<AuditEntry, "seq">) }));
  }

  onEpisodeEvent(listener: (episode: Episode, event: EpisodeEvent, isOurs: boolean) => void): () => void {
    return this.#parts.feed.listen(listener);
  }

  heartbeatDuty(): boolean {
    return this.#duty && this.#parts.clock.now() - this.#renewedAt < DUTY_MS;
  }

  binding(tenant: string, sessionKey: string): Binding | undefined {
    this.#parts.link.mustBeOpen();
    return this.#parts.known.find(tenant, sessionKey);
  }

  async bindings(tenant: string): Promise<Binding[]> {
    return listOf((await this.#parts.link.call<{ list: LuaList<Binding> }>("bindings", { tenant })).list);
  }

  async rebind(requestId: string, to: Placement, session?: Omit<Binding, "lastUsedAt">): Promise<void> {
    const { link, known } = this.#parts;
    const moved = session && { ...session, instance: to.instance };
    const { binding } = await link.call<{ binding?: Binding }>("rebind", { id: requestId, ...to, session: moved });
    if (binding) known.set(binding);
  }

  async sessionCounts(): Promise<Map<string, number>> {
    const { counts } = await this.#parts.link.call<{ counts: LuaList<string> }>("sessionCounts", {});
    const flat = listOf(counts);
    return new Map(flat.flatMap((name, i) => (i % 2 === 0 ? [[name, Number(flat[i + 1])]] : [])));
  }

  async dropBinding(tenant: string, sessionKey: string): Promise<boolean> {
    const { link, known } = this.#parts;
    const { dropped } = await link.call<{ dropped: boolean }>("dropBinding", { tenant, key: sessionKey });
    if (dropped) known.drop(sessionKey);
    return dropped;
  }

  async budget(claim: BudgetClaim, tenant: string): Promise<BudgetView> {
    const { budget } = await this.#parts.link.call<{ budget?: BudgetReply }>("budget", { claim, tenant });
    const { scope, id, limit } = claim;
    return budget ? budgetOf(budget) : { scope, id, limit, spent: 0, reserved: 0 };
  }

  /** Leaves its open reservations to the other routers. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const { link, feed } = this.#parts;
    this.#cancelTick();
    await this.#polling;
    await link.close();
    feed.close();
  }

  /** Connects if need be, and says what this router holds. It is ready when the store takes part again. */
  async #join(): Promise<void> {
    const { link, journal, feed, spent } = this.#parts;
    this.#duty = false;
    const sentAt = this.#parts.clock.now();
    const joined = await link.join((isOtherRun) =>
      isOtherRun ? [...journal.holds, ...settledBy(journal)] : journal.holds,
    );
    if (!joined) return;
    journal.confirmed(joined.mine);
    this.#renewedAt = sentAt;
    if (!feed.begun) {
      feed.begin(joined.last, joined.number);
      for (const episode of await this.#episodes({})) feed.skip(episode);
    } else if (joined.isOtherRun) {
      spent.clear();
      await this.#catchUp(joined);
    }
  }

  async #tick(): Promise<void> {
    const { link, feed, clock, quiet, lateTicks } = this.#parts;
    for (;;) {
      const sentAt = clock.now();
      const timed = sentAt - this.#lookedAt >= TICK_MS;
      if (timed) this.#lookedAt = sentAt;
      const denials = quiet.take();
      const args = { last: feed.last, timed, lateTicks, denials };
      const reply = await link.call<TickReply>("tick", args).catch((error: unknown) => {
        quiet.giveBack(denials);
        throw error;
      });
      this.#duty = reply.duty;
      this.#renewedAt = sentAt;
      this.#nextMs = reply.nextMs ?? Number.POSITIVE_INFINITY;
      const events = listOf(reply.list);
      // Whoever was admitted before these happened listens by then.
      await new Promise<void>((resolve) => setImmediate(resolve));
      if (!feed.take(events, reply.last)) {
        await this.#catchUp({ last: reply.last, number: events.at(-1)?.number ?? 0 });
      } else if (events.length < TICK_EVENTS) return;
    }
  }

  /** Tells what the stream has not got any more, from the events of the episodes that ran or run. */
  async #catchUp({ last, number }: { last: string; number: number }): Promise<void> {
    const { feed } = this.#parts;
    const before = feed.running;
    const missed = [...before, ...(await this.#episodes({})).map(({ tenant, id }) => ({ tenant, id, seq: 0 }))];
    for (const { tenant, id, seq } of missed) {
      const { episode, events } = await this.#events(tenant, id, seq);
      if (!episode) continue;
      // A copy that took over may have forgotten events that were told: it counts on from before them.
      if (episode.seq < seq) feed.skip(episode);
      for (const event of events) feed.tell(episode, event);
    }
    // Not before: if this fails, it begins again. What the stream repeats is not told twice.
    feed.begin(last, number);
  }

  /** At the next deadline at the latest: an episode ends when its time has come, not when somebody happens to look. */
  #tickLater(): void {
    const inMs = Math.min(TICK_MS, Math.max(1, Math.ceil(this.#nextMs)));
    this.#nextMs = Number.POSITIVE_INFINITY;
    this.#cancelTick = this.#parts.clock.after(inMs, () => {
      void this.poll().finally(() => {
        if (this.#closing === undefined) this.#tickLater();
      });
    });
  }

  async #settle(requestId: string, usage: Usage | null): Promise<void> {
    const { link, journal, log } = this.#parts;
    const counts = countsOf(usage);
    const { used } = counts;
    const reply = await link.call<{ used?: number; tokens?: number; instance?: string }>("settle", {
      id: requestId,
      ...counts,
    });
    const { tokens, instance } = reply;
    journal.settled(requestId, tokens !== undefined);
    if (tokens === undefined || (used !== undefined && used <= tokens)) return;
    this.#overruns++;
    log.error("an instance used more than was reserved", { request: requestId, instance, reserved: tokens, used });
  }

  async #reservations(orphans: boolean): Promise<Reservation[]> {
    const { list } = await this.#parts.link.call<{ list: LuaList<ReservationReply> }>("reservations", { orphans });
    return listOf(list).map(reservationOf);
  }

  async #episodes(of: { tenant?: string; whos?: string[] }): Promise<EpisodeReply[]> {
    return listOf((await this.#parts.link.call<{ list: LuaList<EpisodeReply> }>("episodes", of)).list);
  }

  async #events(tenant: string, id: string, after: number) {
    const { list, episode } = await this.#parts.link.call<EventsReply>("episodeEvents", {
      who: `${tenant}/${id}`,
      after,
    });
    return { events: listOf(list), episode };
  }

  async #change(
    tenant: string,
    id: string,
    change: { event?: string; detail?: string | undefined; reason?: EndReason },
  ): Promise<{ episode: Episode; before: boolean }> {
    const who = `${tenant}/${id}`;
    const reply = await this.#parts.link.call<{ episode?: EpisodeReply; before?: boolean }>("changeEpisode", {
      who,
      ...change,
    });
    if (!reply.episode) throw noEpisodeError(id);
    return { episode: episodeOf(reply.episode), before: reply.before ?? false };
  }
}

interface TickReply {
  duty: boolean;
  last: string;
  list: LuaList<EventReply>;
  /** Until the next episode can end; absent when there is none. */
  nextMs?: number;
}

function startOf(tenant: string, id: string, { settings, metadata = {} }: EpisodeStart) {
  return { tenant, id, settings: JSON.stringify(settings), metadata: JSON.stringify(metadata) };
}

/** As the script takes them: with the counts that they were settled by. */
function settledBy(journal: Journal) {
  return journal.settlements.map(({ usage, ...held }) => ({ ...held, s: countsOf(usage) }));
}

interface Counts {
  used: number | undefined;
  prompt?: number;
  completion?: number;
  cached?: number;
}

/** What a settlement charges; `used` undefined: the count is none, and the whole reservation is spent. */
function countsOf(usage: Usage | null): Counts {
  if (usage === null) return { used: 0 };
  const { promptTokens: prompt, completionTokens: completion, cachedTokens: cached } = usage;
  const used = prompt + completion;
  if (!(Number.isSafeInteger(used) && prompt >= 0 && completion >= 0)) return { used: undefined };
  return { used, prompt, completion, cached };
}
