import type { DatabaseSync } from "node:sqlite";
import type { EndReason } from "../../api/http.ts";
import { type Life, shift } from "../../core/episode.ts";
import type { BudgetView, EpisodeSettings } from "../../core/store.ts";
import type { AdmitNote } from "./audit-log.ts";
import { elapsedMs } from "./boot-clock.ts";
import type { Moment } from "./journal.ts";
import type { BindingRecord, BucketRecord, EpisodeRecord, ReservationRecord, Row } from "./records.ts";

export interface Loaded {
  /** With their own buckets and those of their roles. */
  episodes: EpisodeRecord[];
  /** Those that belong to no episode. */
  buckets: BucketRecord[];
  /** Oldest first. */
  reservations: ReservationRecord[];
  /** Least recently used first. */
  bindings: BindingRecord[];
  /** Of the first new row of each table. */
  next: { episode: number; bucket: number; reservation: number; binding: number };
}

type Columns = Record<string, unknown>;

/** What the tables hold, on this process's clock: time that passed while no process ran has passed for the episodes as well. */
export function load(db: DatabaseSync, now: Moment): Loaded {
  const all = (sql: string): Columns[] => db.prepare(sql).all();
  const next = (table: string) => 1 + num(db.prepare(`SELECT coalesce(max(row), 0) AS last FROM ${table}`).get()?.last);
  const boots = new Map(all("SELECT row, boot_id FROM boots").map((c) => [num(c.row), str(c.boot_id)]));
  const buckets = new Map(all("SELECT * FROM buckets ORDER BY row").map((c) => [num(c.row), bucketOf(c)]));
  const byEpisode = Map.groupBy(buckets.values(), (bucket) => bucket.episodeRow);

  const episodes = new Map<number, EpisodeRecord>();
  for (const c of all("SELECT * FROM episodes ORDER BY row")) {
    const own = byEpisode.get(num(c.row)) ?? [];
    const record = episodeOf(c, own, lifeOf(c, boots.get(num(c.boot_row)) ?? "", now));
    episodes.set(record.row, record);
  }
  const reservations = all("SELECT * FROM reservations ORDER BY row").map((c): ReservationRecord => {
    const charges = str(c.charges)
      .split(",")
      .flatMap((charge) => {
        const [row, window] = charge.split(":").map(Number);
        const bucket = buckets.get(row ?? 0);
        return bucket ? [{ bucket, window: window ?? 0 }] : [];
      });
    return {
      ...storedRow(c),
      ...{ requestId: str(c.request_id), tenant: str(c.tenant), instance: str(c.instance), tokens: num(c.tokens) },
      ...{ charges, episode: episodes.get(num(c.episode)), at: num(c.at), recovered: true },
      boot: c.boot === null ? undefined : str(c.boot),
      note: c.note === null ? undefined : (JSON.parse(str(c.note)) as AdmitNote),
    };
  });
  return {
    episodes: [...episodes.values()],
    buckets: byEpisode.get(null) ?? [],
    reservations,
    bindings: all("SELECT * FROM bindings ORDER BY last_used").map((c) => bindingOf(c, now)),
    next: {
      episode: next("episodes"),
      bucket: next("buckets"),
      reservation: next("reservations"),
      binding: next("bindings"),
    },
  };
}

/** Instants are on the writer's scale: they are moved so that as much time has passed since `saved` as really did. */
function lifeOf(c: Columns, bootId: string, now: Moment): Life {
  const elapsed = elapsedMs({ bootId, bootMs: num(c.boot), wallMs: num(c.wall) }, now);
  const life: Life = {
    startedAt: num(c.started),
    deadline: num(c.deadline),
    activeAt: num(c.active),
    extensions: num(c.extensions),
    running: 0,
    ...(c.end_reason !== null && { ended: { reason: str(c.end_reason) as EndReason, at: num(c.ended) } }),
  };
  return shift(life, now.ms - elapsed - num(c.saved));
}

function episodeOf(c: Columns, own: BucketRecord[], life: Life): EpisodeRecord {
  const bucket = own.find((b) => b.scope === "episode");
  if (!bucket) throw new Error(`episode ${str(c.id)} has lost its tokens`);
  return {
    ...storedRow(c),
    ...{ tenant: str(c.tenant), id: str(c.id), life, bucket, seq: num(c.seq), startedWall: num(c.started_wall) },
    settings: JSON.parse(str(c.settings)) as EpisodeSettings,
    metadata: JSON.parse(str(c.metadata)) as Record<string, string>,
    roles: new Map(own.filter((b) => b !== bucket).map((b) => [b.id, b])),
    lastProgress: { event: str(c.progress_event), at: num(c.progress_wall) },
    audit: { seq: 0, row: 0 },
    wakeAt: Number.POSITIVE_INFINITY,
  };
}

function bucketOf(c: Columns): BucketRecord {
  return {
    ...storedRow(c),
    ...{ scope: str(c.scope) as BudgetView["scope"], tenant: str(c.tenant), id: str(c.id) },
    ...{ episodeRow: c.episode === null ? null : num(c.episode), windowSeconds: num(c.window_seconds) },
    ...{ window: num(c.window), spent: num(c.spent), reserved: 0 },
  };
}

function bindingOf(c: Columns, now: Moment): BindingRecord {
  const lastUsedAt = num(c.last_used);
  return {
    ...storedRow(c),
    value: {
      ...{
        key: str(c.key),
        tenant: str(c.tenant),
        id: str(c.id),
        role: str(c.role),
        instance: str(c.instance),
        lastUsedAt,
      },
      ...(c.episode !== null && { episodeId: str(c.episode) }),
    },
    usedAt: now.ms - Math.max(0, now.wallMs - lastUsedAt),
    storedUse: lastUsedAt,
  };
}

function storedRow(c: Columns): Row {
  return { row: num(c.row), gone: false, stored: true, place: -1 };
}

function num(value: unknown): number {
  return Number(value);
}

function str(value: unknown): string {
  return String(value);
}
