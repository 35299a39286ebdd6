import type { Usage } from "../../api/backend.ts";
import type { EndReason, ProgressEvent } from "../../api/http.ts";
import { type AuditData, type AuditEntry, denialOf } from "../../core/audit.ts";
import { reserve } from "../../core/budget.ts";
import { touch } from "../../core/episode.ts";
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
import {
  checkAdmit,
  closedError,
  endedError,
  inUseError,
  noEpisodeError,
  takenError,
} from "../../core/store-errors.ts";
import type { Clock } from "../../lib/clock.ts";
import type { Logger } from "../../lib/logger.ts";
import type { AdmitNote } from "./audit-log.ts";
import type { Bindings } from "./bindings.ts";
import type { Commits } from "./commits.ts";
import type { Episodes } from "./episodes.ts";
import type { Journal } from "./journal.ts";
import type { BucketLimit, Ledger } from "./ledger.ts";
import type { EpisodeRecord, ReservationRecord } from "./records.ts";

export interface Parts {
  clock: Clock;
  /** `bytes` random bytes. */
  random: (bytes: number) => Uint8Array;
  log: Logger;
  journal: Journal;
  commits: Commits;
  ledger: Ledger;
  episodes: Episodes;
  bindings: Bindings;
  /** Called at the end of `close`. */
  unlock: () => void;
}

export interface StoreStats {
  openReservations: number;
  bindings: number;
  /** Settlements of more than was reserved since the start: each is an instance that broke its hard limit. */
  overruns: number;
}

/**
 * The StateStore of one router. Each method decides and changes memory in one go, without waiting, and then waits for the group commit;
 * so no two calls ever see each other half done. A denial, a settlement, and whatever changes nothing durable, waits for nothing. After a rejection
 * with `store_unavailable` an admission, a start or a move has not happened; a settlement, progress or end has, and is written later.
 */
export class EmbeddedStore implements StateStore {
  readonly #parts: Parts;
  #overruns = 0;
  #closed = false;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  get stats(): StoreStats {
    const { ledger, bindings } = this.#parts;
    return { openReservations: ledger.openCount, bindings: bindings.size, overruns: this.#overruns };
  }

  async admit(request: AdmitRequest): Promise<Admission> {
    this.#mustBeOpen();
    checkAdmit(request);
    const { clock, ledger, episodes, bindings, commits, journal } = this.#parts;
    const { requestId, tenant, session, claims, role } = request;
    const known = ledger.find(requestId);
    if (known) return this.#admitAgain(known, request);

    const wall = clock.wall();
    const start = request.episode;
    const found = start && episodes.find(tenant, start.id);
    if (found?.life.ended) return { ok: false, code: "episode_ended", episode: episodes.view(found) };
    const episode = found ?? (start && episodes.make(tenant, start.id, start.settings, start.metadata ?? {}));
    const limits = this.#limits(claims, tenant, episode);
    const reserved = reserve(limits, request, wall);
    if (!reserved.ok) {
      const budget = ledger.view(reserved.limit, wall);
      if (found) {
        journal.audit.deny(found, wall, denialOf(budget, request, 1));
        commits.later();
      }
      return { ok: false, code: "budget_exhausted", budget };
    }

    const { tokens } = reserved;
    const instance = session ? bindings.homeOf(session) : request.instance;
    // The session may live elsewhere than the router thought: which process that is it has not said.
    const boot = instance === request.instance ? request.boot : undefined;
    const of: Pick<AdmitNote, "role" | "session"> = {};
    if (role !== undefined) of.role = role;
    if (session) of.session = session.id;
    const note = episode && { seq: 0, at: wall, instance, ...of };
    const hold = { requestId, tenant, instance, boot, tokens, episode, at: wall, note };
    const reservation = limits.length > 0 ? ledger.hold(limits, hold) : undefined;
    let added: { undo: () => void } | undefined;
    if (episode && note) {
      try {
        if (!found) added = episodes.add(episode);
      } catch (error) {
        if (reservation) ledger.settle(reservation, null);
        throw error;
      }
      episodes.admitted(episode);
      note.seq = journal.audit.admit(episode);
      const from = session?.boundTo;
      if (from !== undefined && from !== instance) {
        journal.audit.add(episode, wall, "rebind", { request: requestId, ...of, from, to: instance });
      }
    }
    const bound = session && bindings.bind(session, instance);
    const admission: Admission = { ok: true, reserved: tokens, instance, budgets: this.#views(limits) };
    if (episode) admission.episode = episodes.view(episode);
    const undo = () => {
      bound?.undo();
      if (episode) journal.audit.forget(requestId);
      added?.undo();
      if (reservation && ledger.find(requestId) === reservation) this.#release(reservation, null);
    };
    const isKnown = (!episode || found) && !bound?.durable && limits.every(({ bucket }) => bucket.stored);
    if (isKnown && reservation) await commits.joinAdmissions(undo);
    else if (!isKnown) await commits.join(undo);
    return admission;
  }

  async settle(requestId: string, usage: Usage | null): Promise<void> {
    this.#mustBeOpen();
    const { ledger, episodes, commits, clock, log, journal } = this.#parts;
    const reservation = ledger.find(requestId);
    if (!reservation) return;
    const { episode, recovered, tokens, instance } = reservation;
    const isLive = episode !== undefined && !recovered && episodes.isActive(episode);
    if (isLive) touch(episode.life, clock.now());
    const { used, overrun } = this.#release(reservation, usage);
    if (overrun) {
      this.#overruns++;
      log.error("an instance used more than was reserved", { request: requestId, instance, reserved: tokens, used });
    }
    if (episode) {
      const settlement = settlementOf(reservation, usage, used);
      journal.audit.add(episode, clock.wall(), "settle", settlement, reservation.note);
    }
    if (isLive && usage && usage.completionTokens > 0)
      episodes.progress(episode, "llm_response", { tokens: used, instance });
    commits.later();
  }

  async openReservations(): Promise<Reservation[]> {
    return this.#reservations(() => true);
  }

  async abandonedReservations(): Promise<Reservation[]> {
    return this.#reservations(({ recovered }) => recovered);
  }

  /** Nobody else can settle it. */
  holds(): boolean {
    return true;
  }

  /** There is one router. */
  heartbeatDuty(): boolean {
    return true;
  }

  async startEpisode(tenant: string, { id, settings, metadata }: EpisodeStart): Promise<Episode> {
    this.#mustBeOpen();
    const { episodes, random, commits } = this.#parts;
    const known = id === undefined ? undefined : episodes.find(tenant, id);
    if (known?.life.ended) throw endedError(known.id, known.life.ended.reason);
    if (known) throw takenError(id);
    const name = id ?? `ep_${Buffer.from(random(16)).toString("hex")}`;
    const record = episodes.make(tenant, name, settings, metadata ?? {});
    const added = episodes.add(record);
    const view = episodes.view(record);
    await commits.join(added.undo);
    return view;
  }

  async episode(tenant: string, id: string): Promise<Episode | undefined> {
    await this.#settled();
    const { episodes } = this.#parts;
    const record = episodes.find(tenant, id);
    return record && episodes.view(record);
  }

  async episodesById(asked: readonly { tenant: string; id: string }[]): Promise<Episode[]> {
    await this.#settled();
    const { episodes } = this.#parts;
    return asked.flatMap(({ tenant, id }) => {
      const record = episodes.find(tenant, id);
      return record ? [episodes.view(record)] : [];
    });
  }

  async episodes(tenant: string): Promise<Episode[]> {
    await this.#settled();
    const { episodes } = this.#parts;
    return episodes.of(tenant).map((record) => episodes.view(record));
  }

  async activeEpisodes(): Promise<Episode[]> {
    await this.#settled();
    const { episodes } = this.#parts;
    return episodes.active().map((record) => episodes.view(record));
  }

  async progress(tenant: string, id: string, event: ProgressEvent, detail?: string): Promise<Episode> {
    this.#mustBeOpen();
    const { episodes, commits } = this.#parts;
    const record = this.#mustFind(tenant, id);
    if (record.life.ended) throw endedError(id, record.life.ended.reason);
    episodes.progress(record, event, detail === undefined ? {} : { detail });
    const view = episodes.view(record);
    await commits.join();
    return view;
  }

  async endEpisode(tenant: string, id: string, reason: EndReason): Promise<Episode> {
    this.#mustBeOpen();
    const { episodes, commits } = this.#parts;
    const record = this.#mustFind(tenant, id);
    episodes.end(record, reason);
    const view = episodes.view(record);
    await commits.durable();
    return view;
  }

  async episodeEvents(tenant: string, id: string, after: number): Promise<EpisodeEvent[]> {
    await this.#settled();
    const { episodes, journal, commits } = this.#parts;
    const record = episodes.find(tenant, id);
    if (!record) return [];
    await commits.durable().catch(() => {}); // what cannot be written was not told either
    return journal.events(record, after);
  }

  async audit(tenant: string, id: string, after: number): Promise<AuditEntry[]> {
    this.#mustBeOpen();
    const { episodes, journal, commits, ledger } = this.#parts;
    const record = episodes.find(tenant, id);
    await commits.durable().catch(() => {});
    if (!record) return [];
    const open = ledger.open().filter((reservation) => reservation.episode === record);
    return journal.audit.entries(record, open, after);
  }

  onEpisodeEvent(listener: (episode: Episode, event: EpisodeEvent, isOurs: boolean) => void): () => void {
    return this.#parts.commits.listen(listener);
  }

  binding(tenant: string, sessionKey: string): Binding | undefined {
    this.#mustBeOpen();
    return this.#parts.bindings.find(tenant, sessionKey)?.value;
  }

  async bindings(tenant: string): Promise<Binding[]> {
    await this.#settled();
    const all = this.#parts.bindings.all().map((record) => record.value);
    return all.filter((binding) => binding.tenant === tenant);
  }

  async rebind(requestId: string, to: Placement, session?: Omit<Binding, "lastUsedAt">): Promise<void> {
    this.#mustBeOpen();
    const { ledger, bindings, commits, clock, journal } = this.#parts;
    const { instance } = to;
    const reservation = ledger.find(requestId);
    const undo: (() => void)[] = [];
    if (reservation?.episode && reservation.instance !== instance) {
      const of = { request: requestId, ...(session && { session: session.id }) };
      const move = { ...of, from: reservation.instance, to: instance };
      undo.push(journal.audit.add(reservation.episode, clock.wall(), "rebind", move));
    }
    if (reservation) this.#moveTo(reservation, to);
    const bound = session && bindings.bind(session, instance);
    if (bound) undo.push(bound.undo);
    if (reservation || bound) await commits.join(() => undo.forEach((step) => void step()));
  }

  async sessionCounts(): Promise<Map<string, number>> {
    this.#mustBeOpen();
    const counts = new Map<string, number>();
    for (const { value } of this.#parts.bindings.all()) {
      counts.set(value.instance, (counts.get(value.instance) ?? 0) + 1);
    }
    return counts;
  }

  async dropBinding(tenant: string, sessionKey: string): Promise<boolean> {
    this.#mustBeOpen();
    const { bindings, commits } = this.#parts;
    const dropped = bindings.drop(tenant, sessionKey);
    await commits.durable();
    return dropped;
  }

  async budget(claim: BudgetClaim, tenant: string): Promise<BudgetView> {
    await this.#settled();
    const { ledger, episodes, clock } = this.#parts;
    const { scope, id, limit, episodeId } = claim;
    const episode = episodeId === undefined ? undefined : episodes.find(tenant, episodeId);
    if (episodeId !== undefined && !episode) return { scope, id, limit, spent: 0, reserved: 0 };
    return ledger.view(ledger.limitOf(claim, tenant, episode), clock.wall());
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const { episodes, bindings, commits, journal, unlock } = this.#parts;
    episodes.close();
    bindings.close();
    commits.close();
    journal.close();
    unlock();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #reservations(which: (reservation: ReservationRecord) => boolean): Promise<Reservation[]> {
    await this.#settled();
    const { ledger, clock } = this.#parts;
    const wall = clock.wall();
    return ledger
      .open()
      .filter(which)
      .map(({ requestId, tenant, instance, boot, tokens, episode, at }) => ({
        ...{ requestId, tenant, instance, tokens, ageMs: wall - at },
        ...(boot !== undefined && { boot }),
        ...(episode && { episodeId: episode.id }),
      }));
  }

  async #admitAgain(reservation: ReservationRecord, request: AdmitRequest): Promise<Admission> {
    const { tenant, instance, claims } = request;
    if (reservation.tenant !== tenant) throw inUseError();
    const { commits, episodes } = this.#parts;
    const { episode, tokens } = reservation;
    if (reservation.instance !== instance) this.#moveTo(reservation, request);
    await commits.durable();
    return {
      ok: true,
      reserved: tokens,
      instance: reservation.instance,
      budgets: this.#views(this.#limits(claims, tenant, episode)),
      ...(episode && { episode: episodes.view(episode) }),
    };
  }

  /** All limits that apply: the episode's own first. */
  #limits(claims: readonly BudgetClaim[], tenant: string, episode: EpisodeRecord | undefined): BucketLimit[] {
    const limits: BucketLimit[] = [];
    if (episode) limits.push({ bucket: episode.bucket, limit: episode.settings.budgetTokens });
    for (const claim of claims) limits.push(this.#parts.ledger.limitOf(claim, tenant, episode));
    return limits;
  }

  #views(limits: readonly BucketLimit[]): BudgetView[] {
    const { ledger, clock } = this.#parts;
    const wall = clock.wall();
    return limits.filter(({ limit }) => limit > 0).map((limit) => ledger.view(limit, wall));
  }

  #moveTo(reservation: ReservationRecord, { instance, boot }: Placement): void {
    reservation.instance = instance;
    reservation.boot = boot;
    this.#parts.journal.reservations.mark(reservation);
  }

  #release(reservation: ReservationRecord, usage: Usage | null): { used: number; overrun: boolean } {
    if (reservation.episode && !reservation.recovered) this.#parts.episodes.released(reservation.episode);
    return this.#parts.ledger.settle(reservation, usage);
  }

  #mustFind(tenant: string, id: string): EpisodeRecord {
    const record = this.#parts.episodes.find(tenant, id);
    if (!record) throw noEpisodeError(id);
    return record;
  }

  #mustBeOpen(): void {
    if (this.#closed) throw closedError();
  }

  async #settled(): Promise<void> {
    this.#mustBeOpen();
    await this.#parts.commits.settled();
    this.#mustBeOpen();
  }
}

function settlementOf(
  { requestId, instance, tokens, recovered }: ReservationRecord,
  usage: Usage | null,
  used: number,
): AuditData {
  const data: AuditData = { request: requestId, instance, reserved: tokens, used };
  if (usage) {
    data.prompt = usage.promptTokens;
    data.completion = usage.completionTokens;
    data.cached = usage.cachedTokens;
  }
  if (recovered) data.recovered = recovered;
  return data;
}
