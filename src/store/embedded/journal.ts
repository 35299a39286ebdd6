import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite";
import type { EpisodeEvent } from "../../core/store.ts";
import type { AdmissionLog } from "./admission-log.ts";
import { AuditLog } from "./audit-log.ts";
import type { Stamp } from "./boot-clock.ts";
import type { BindingRecord, BucketRecord, EpisodeRecord, ReservationRecord, Row } from "./records.ts";
import { Table } from "./table.ts";

/** Events kept per episode: the latest. Rows, too: one that is written over ends that many before the one that takes its place. */
export const EVENTS_KEPT = 256;
/** Events that may wait for a disk that cannot be written; the oldest go first. */
const EVENTS_WAITING = 10_000;

/** Now, on all clocks: `ms` is the process's own scale. */
export interface Moment extends Stamp {
  ms: number;
}

type Written = Omit<Table<Row>, "mark">;

/**
 * Brings the tables up to what memory holds, one transaction a call. It writes the state of changed records, not the changes; `audit` alone
 * has those, in the same transaction.
 */
export class Journal {
  readonly episodes: Table<EpisodeRecord>;
  readonly buckets: Table<BucketRecord>;
  readonly reservations: Table<ReservationRecord>;
  readonly bindings: Table<BindingRecord>;
  readonly audit: AuditLog;
  readonly #tables: readonly Written[];
  readonly #db: DatabaseSync;
  readonly #log: AdmissionLog | undefined;
  readonly #now: () => Moment;
  readonly #bootRow: number;
  #moment: Moment;
  #events: { episode: EpisodeRecord; event: EpisodeEvent }[] = [];
  #forgotten: number[] = [];
  /** Admissions of this turn. */
  #admitted: ReservationRecord[] = [];
  readonly #sql: Record<
    "begin" | "commit" | "rollback" | "addEvent" | "dropEvents" | "readEvents" | "setEpoch",
    StatementSync
  >;

  /** `now` is asked once a commit. Without a log nothing outlives the process. */
  constructor(db: DatabaseSync, now: () => Moment, log?: AdmissionLog) {
    this.#db = db;
    this.#log = log;
    this.#now = now;
    this.#moment = now();
    this.#bootRow = bootRow(db, this.#moment.bootId);
    this.episodes = new Table(db, "episodes", 18, (record) => this.#episodeValues(record));
    this.buckets = new Table(db, "buckets", 7, bucketValues);
    this.reservations = new Table(db, "reservations", 9, reservationValues);
    this.bindings = new Table(db, "bindings", 7, bindingValues);
    this.#tables = [this.episodes, this.buckets, this.reservations, this.bindings];
    this.audit = new AuditLog(db);
    this.#sql = {
      begin: db.prepare("BEGIN IMMEDIATE"),
      commit: db.prepare("COMMIT"),
      rollback: db.prepare("ROLLBACK"),
      addEvent: db.prepare("INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?)"),
      dropEvents: db.prepare("DELETE FROM events WHERE episode = ?"),
      setEpoch: db.prepare("UPDATE admission_log SET epoch = ?"),
      readEvents: db.prepare("SELECT events FROM events WHERE episode = ? AND seq > ? ORDER BY seq"),
    };
  }

  get isDirty(): boolean {
    const isChanged = this.audit.isDirty || this.#events.length > 0 || this.#forgotten.length > 0;
    return isChanged || this.#tables.some((table) => table.isDirty);
  }

  addEvent(episode: EpisodeRecord, event: EpisodeEvent): void {
    this.#events.push({ episode, event });
    if (this.#events.length > EVENTS_WAITING) this.#events.shift();
  }

  /** What the tables have, so without the events of this turn. */
  events(episode: EpisodeRecord, after: number): EpisodeEvent[] {
    const first = Math.max(after, episode.seq - EVENTS_KEPT) + 1;
    const rows = this.#sql.readEvents.all(episode.row, first - 1);
    return rows.flatMap((row) => JSON.parse(String(row.events)) as EpisodeEvent[]).filter(({ seq }) => seq >= first);
  }

  forgetEpisode(episode: EpisodeRecord): void {
    episode.gone = true;
    this.episodes.mark(episode);
    this.#forgotten.push(episode.row);
    this.audit.drop(episode.row);
  }

  /** A reservation that is new. */
  admit(reservation: ReservationRecord): void {
    this.reservations.mark(reservation);
    this.#admitted.push(reservation);
  }

  /** Throws what SQLite throws; everything stays to be written by the next call. */
  commit(): void {
    this.#moment = this.#now();
    this.#admitted = [];
    const log = this.#log?.isUsed ? this.#log : undefined;
    this.#transaction(() => {
      if (log) this.#sql.setEpoch.run(log.nextEpoch);
      for (const table of this.#tables) table.write();
      for (const [{ row }, events] of Map.groupBy(this.#events, ({ episode }) => episode)) {
        const kept = events.slice(-EVENTS_KEPT).map(({ event }) => event);
        const seq = kept.at(-1)?.seq ?? 0;
        this.#sql.addEvent.run(row, seq % EVENTS_KEPT, seq, JSON.stringify(kept));
      }
      this.audit.write();
      // After the events: an episode that came and went in one turn leaves none.
      for (const row of this.#forgotten) this.#sql.dropEvents.run(row);
    });
    log?.restart();
    for (const table of this.#tables) table.written();
    this.audit.written();
    this.#events = [];
    this.#forgotten = [];
  }

  /**
   * As `commit`, but only the new reservations, whose buckets and episodes the tables have. The rest is whole without them: a settlement's two
   * halves (less reserved, more spent) are both left to the next `commit`. Throws what the file system throws.
   */
  commitAdmissions(): void {
    const admitted = this.#admitted.filter(({ gone }) => !gone);
    this.#admitted = [];
    if (admitted.length > 0) this.#log?.append(admitted.map((record) => this.reservations.rowOf(record)));
  }

  close(): void {
    this.#log?.close();
    this.#db.close();
  }

  #transaction(write: () => void): void {
    this.#sql.begin.run();
    try {
      write();
      this.#sql.commit.run();
    } catch (error) {
      // Some errors (a full disk) have rolled back by themselves.
      if (this.#db.isTransaction) this.#sql.rollback.run();
      this.audit.unwritten();
      throw error;
    }
  }

  #episodeValues({
    tenant,
    id,
    settings,
    metadata,
    startedWall,
    life,
    lastProgress,
    seq,
  }: EpisodeRecord): SQLInputValue[] {
    const { ms, bootMs, wallMs } = this.#moment;
    const { startedAt, deadline, activeAt, extensions, ended } = life;
    return [
      ...[tenant, id, JSON.stringify(settings), JSON.stringify(metadata), startedWall],
      ...[startedAt, deadline, activeAt, extensions, ended?.reason ?? null, ended?.at ?? null],
      ...[lastProgress.event, lastProgress.at, seq, ms, this.#bootRow, bootMs, wallMs],
    ];
  }
}

function bucketValues({ scope, tenant, id, episodeRow, windowSeconds, window, spent }: BucketRecord): SQLInputValue[] {
  return [scope, tenant, id, episodeRow, windowSeconds, window, spent];
}

function reservationValues(record: ReservationRecord): SQLInputValue[] {
  const { requestId, tenant, instance, tokens, charges, episode, at, boot } = record;
  const note = record.note ? JSON.stringify(record.note) : null;
  const encoded = charges.map(({ bucket, window }) => `${bucket.row}:${window}`).join();
  return [requestId, tenant, instance, tokens, encoded, episode?.row ?? null, at, note, boot ?? null];
}

function bindingValues(record: BindingRecord): SQLInputValue[] {
  const { key, tenant, id, role, instance, episodeId, lastUsedAt } = record.value;
  record.storedUse = lastUsedAt;
  return [key, tenant, id, role, instance, episodeId ?? null, lastUsedAt];
}

function bootRow(db: DatabaseSync, bootId: string): number {
  db.prepare("INSERT OR IGNORE INTO boots (boot_id) VALUES (?)").run(bootId);
  return Number(db.prepare("SELECT row FROM boots WHERE boot_id = ?").get(bootId)?.row);
}
