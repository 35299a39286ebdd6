import type { EndReason } from "../../api/http.ts";
import { auditKindOf } from "../../core/audit.ts";
import { end, endingOf, expire, forgetAt, recordProgress, startLife, touch } from "../../core/episode.ts";
import type { Episode, EpisodeEvent, EpisodeSettings } from "../../core/store.ts";
import type { Clock } from "../../lib/clock.ts";
import { LLMPoolError } from "../../lib/errors.ts";
import type { Commits } from "./commits.ts";
import type { Journal } from "./journal.ts";
import type { Ledger } from "./ledger.ts";
import { type EpisodeRecord, newRow } from "./records.ts";
import { Wakeups } from "./wakeups.ts";

/** Episodes that one store keeps. */
export const MOST_EPISODES = 100_000;

export interface EpisodesDeps {
  clock: Clock;
  journal: Journal;
  commits: Commits;
  ledger: Ledger;
  /** Of the first new row. */
  nextRow: number;
  /** Episodes that are kept, ended ones included: above it the one that ended first is forgotten early. */
  most: number;
}

/** All episodes, active and ended, by tenant and id; ends and forgets them when their time comes. */
export class Episodes {
  readonly #deps: EpisodesDeps;
  readonly #tenants = new Map<string, Map<string, EpisodeRecord>>();
  /** In the order in which they ended. */
  readonly #ended = new Set<EpisodeRecord>();
  readonly #wakeups: Wakeups<EpisodeRecord>;
  readonly #view = (record: EpisodeRecord): Episode => this.view(record);
  #count = 0;
  #nextRow: number;

  constructor(deps: EpisodesDeps) {
    this.#deps = deps;
    this.#nextRow = deps.nextRow;
    this.#wakeups = new Wakeups(deps.clock, (record) => {
      record.wakeAt = Number.POSITIVE_INFINITY;
      if (!record.gone) this.refresh(record);
    });
  }

  /** As it is now: one whose time has come has ended, one whose memory has run out is gone. */
  find(tenant: string, id: string): EpisodeRecord | undefined {
    const record = this.#tenants.get(tenant)?.get(id);
    if (record) this.refresh(record);
    return record?.gone ? undefined : record;
  }

  of(tenant: string): EpisodeRecord[] {
    const records = [...(this.#tenants.get(tenant)?.values() ?? [])];
    for (const record of records) this.refresh(record);
    return records.filter((record) => !record.gone);
  }

  active(): EpisodeRecord[] {
    return [...this.#tenants.keys()].flatMap((tenant) => this.of(tenant)).filter((record) => !record.life.ended);
  }

  /** A new one that `add` is still to take in. */
  make(tenant: string, id: string, settings: EpisodeSettings, metadata: Record<string, string>): EpisodeRecord {
    const { clock, ledger } = this.#deps;
    const wall = clock.wall();
    const row = this.#nextRow++;
    return {
      ...newRow(row),
      tenant,
      id,
      settings,
      metadata,
      startedWall: wall,
      life: startLife(settings, clock.now()),
      bucket: ledger.make("episode", tenant, id, 0, row),
      roles: new Map(),
      lastProgress: { event: "started", at: wall },
      seq: 0,
      audit: { seq: 0, row: 0 },
      wakeAt: Number.POSITIVE_INFINITY,
    };
  }

  /** Takes in a new one. `undo` forgets that it ever was. */
  add(record: EpisodeRecord): { undo: () => void } {
    this.#makeRoom();
    this.restore(record);
    this.#deps.journal.buckets.mark(record.bucket);
    const { timeoutSeconds, maxTimeoutSeconds, budgetTokens } = record.settings;
    const data = {
      timeout_s: timeoutSeconds,
      max_timeout_s: maxTimeoutSeconds,
      ...(budgetTokens > 0 && { budget_tokens: budgetTokens }),
    };
    this.#emit(record, "started", data, this.#deps.clock.wall() - record.startedWall);
    return { undo: () => this.#forget(record) };
  }

  /** Takes in one that the tables had. */
  restore(record: EpisodeRecord): void {
    const byId = this.#tenants.get(record.tenant) ?? new Map<string, EpisodeRecord>();
    this.#tenants.set(record.tenant, byId);
    byId.set(record.id, record);
    this.#count++;
    if (record.life.ended) this.#ended.add(record);
    this.wake(record);
  }

  /** A request of it was admitted. Written only where it matters after a crash. */
  admitted(record: EpisodeRecord): void {
    record.life.running++;
    const { clock, journal, commits } = this.#deps;
    touch(record.life, clock.now());
    if (record.settings.idleTimeoutSeconds === 0) return;
    journal.episodes.mark(record);
    commits.later();
  }

  /** A request of it is over. */
  released(record: EpisodeRecord): void {
    record.life.running--;
    if (!record.gone) this.wake(record);
  }

  isActive(record: EpisodeRecord): boolean {
    if (!record.gone) this.refresh(record);
    return !record.gone && !record.life.ended;
  }

  progress(record: EpisodeRecord, event: string, data: EpisodeEvent["data"]): void {
    const { clock } = this.#deps;
    record.lastProgress = { event, at: clock.wall() };
    const extended = recordProgress(record.life, record.settings, clock.now());
    this.#emit(record, "progress", { event, ...data });
    if (extended) {
      const { extensions } = record.life;
      this.#emit(record, "extended", { extensions, time_remaining_s: this.view(record).remainingMs / 1000 });
    }
  }

  end(record: EpisodeRecord, reason: EndReason): void {
    if (end(record.life, reason, this.#deps.clock.now())) this.#onEnd(record);
  }

  /** Ends or forgets it if that is due. */
  refresh(record: EpisodeRecord): void {
    const { clock } = this.#deps;
    const now = clock.now();
    if (expire(record.life, record.settings, now)) this.#onEnd(record);
    if (forgetAt(record.life, record.settings) <= now) this.#forget(record);
    else this.wake(record);
  }

  /** Looks again when it can end or be forgotten at the earliest. That mostly moves later: then the old instant is kept and looked at. */
  wake(record: EpisodeRecord): void {
    const { life, settings } = record;
    const at = life.ended ? forgetAt(life, settings) : endingOf(life, settings).at;
    if (at >= record.wakeAt) return;
    record.wakeAt = at;
    this.#wakeups.at(at, record);
  }

  view(record: EpisodeRecord): Episode {
    const { tenant, id, life, settings, metadata, bucket, startedWall, lastProgress } = record;
    const view: Episode = {
      tenant,
      id,
      state: life.ended ? "ended" : "active",
      startedAt: startedWall,
      remainingMs: life.ended ? 0 : Math.max(0, life.deadline - this.#deps.clock.now()),
      limitMs: life.deadline - life.startedAt,
      extensions: life.extensions,
      tokensUsed: bucket.spent,
      tokensReserved: bucket.reserved,
      lastProgress,
      settings,
      metadata,
    };
    if (life.ended) view.endReason = life.ended.reason;
    return view;
  }

  close(): void {
    this.#wakeups.close();
  }

  #onEnd(record: EpisodeRecord): void {
    const { ended } = record.life;
    if (!ended) return;
    const agoMs = this.#deps.clock.now() - ended.at;
    this.#ended.add(record);
    this.#emit(record, "ended", { reason: ended.reason, tokens_used: record.bucket.spent }, agoMs);
    this.wake(record);
  }

  #emit(record: EpisodeRecord, kind: EpisodeEvent["kind"], data: EpisodeEvent["data"], agoMs = 0): void {
    const { clock, journal, commits } = this.#deps;
    record.seq++;
    journal.episodes.mark(record);
    const at = clock.wall() - agoMs;
    const audited = auditKindOf(kind, data);
    const cause = kind === "extended" ? { cause: record.lastProgress.event } : {};
    if (audited) journal.audit.add(record, at, audited, { ...data, ...cause });
    commits.emit(record, { seq: record.seq, kind, at, data }, this.#view);
  }

  #forget(record: EpisodeRecord): void {
    if (record.gone) return;
    const { journal, commits, ledger } = this.#deps;
    const byId = this.#tenants.get(record.tenant);
    byId?.delete(record.id);
    if (byId?.size === 0) this.#tenants.delete(record.tenant);
    this.#ended.delete(record);
    this.#count--;
    journal.forgetEpisode(record);
    for (const bucket of [record.bucket, ...record.roles.values()]) ledger.drop(bucket);
    commits.soon();
  }

  #makeRoom(): void {
    const { most } = this.#deps;
    if (this.#count < most) return;
    const [oldest] = this.#ended;
    if (!oldest) {
      throw new LLMPoolError("queue_full", `${most} episodes are active, as many as one router takes`, {
        retryAfterSeconds: 10,
      });
    }
    this.#forget(oldest);
  }
}
