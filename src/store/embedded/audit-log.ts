import type { DatabaseSync, StatementSync } from "node:sqlite";
import { AUDIT_KEPT, AUDIT_PAGE, type AuditData, type AuditEntry, type AuditKind } from "../../core/audit.ts";
import { Insert } from "./insert.ts";
import type { EpisodeRecord, ReservationRecord } from "./records.ts";

/** Entries of all episodes that the table keeps: the latest. */
const MOST_ENTRIES = 1_000_000;
/** Entries that may wait for a disk that cannot be written; the oldest go first. */
const MOST_WAITING = 10_000;
/** Entries that one transaction deletes at most, so that none takes long. */
const MOST_CUT = 5_000;

/** The end of an episode's journal. */
export interface AuditTail {
  /** Of the latest entry. */
  seq: number;
  /** Of the latest entry in the table; 0 when there is none. */
  row: number;
  /** The latest entry, when it is a denial: another one by the same budget is added to it. */
  denial?: Waiting | undefined;
}

/** What an admission's entry says beyond its reservation. */
export interface AdmitNote {
  seq: number;
  at: number;
  instance: string;
  role?: string;
  session?: string;
}

interface Waiting extends AuditEntry {
  episode: EpisodeRecord;
  /** Of a settlement: what it settles. */
  admit: AdmitNote | undefined;
  /** The row that it is in. */
  row: EntryRow | undefined;
}

/** What one transaction says of one episode. Its number is that of its last entry, of all that were ever made. */
interface EntryRow {
  row: number;
  prev: number;
  episode: EpisodeRecord;
  entries: Waiting[];
}

type Told = [seq: number, at: number, kind: AuditKind, data: AuditData, admit: AdmitNote | null];

/**
 * The episodes' journals. One table, to which the transaction that makes decisions durable adds a row for each episode that they are about. An
 * admission adds none: while it is open, its reservation tells of it, and then the entry of its settlement.
 */
export class AuditLog {
  readonly #db: DatabaseSync;
  readonly #insert: Insert;
  readonly #replace: StatementSync;
  readonly #cut: StatementSync;
  readonly #read: StatementSync;
  #waiting: Waiting[] = [];
  /** In the table, and changed since. */
  readonly #changed = new Set<EntryRow>();
  /** Of the transaction that runs. */
  #writing: EntryRow[] = [];
  /** The first row of each episode, oldest first: what is before all of them is over. */
  readonly #firsts = new Map<number, number>();
  #nextRow: number;
  /** Rows before this one are deleted. */
  #cutTo: number;
  #cutting = 0;

  constructor(db: DatabaseSync) {
    this.#db = db;
    this.#insert = new Insert(db, "audit", 5);
    this.#replace = db.prepare("REPLACE INTO audit VALUES (?, ?, ?, ?, ?)");
    this.#cut = db.prepare("DELETE FROM audit WHERE row < ?");
    this.#read = db.prepare(`
      WITH RECURSIVE entry AS (
        SELECT * FROM audit WHERE row = ? AND seq > ?
        UNION ALL SELECT a.* FROM entry JOIN audit a ON a.row = entry.prev WHERE a.seq > ?
      )
      SELECT entries FROM entry LIMIT ${AUDIT_KEPT}`);
    const bounds = db.prepare("SELECT coalesce(min(row), 1) AS first, coalesce(max(row), 0) AS last FROM audit").get();
    this.#cutTo = Number(bounds?.first);
    this.#nextRow = Number(bounds?.last) + 1;
  }

  /** Takes up the journals of episodes that the tables had. */
  restore(episodes: readonly EpisodeRecord[], reservations: readonly ReservationRecord[]): void {
    const byRow = new Map(episodes.map((episode) => [episode.row, episode]));
    const tails = "SELECT episode, min(row) AS first, max(row) AS last, max(seq) AS seq FROM audit GROUP BY episode";
    for (const c of this.#db.prepare(`${tails} ORDER BY first`).all()) {
      const episode = byRow.get(Number(c.episode));
      if (!episode) continue;
      episode.audit = { seq: Number(c.seq), row: Number(c.last) };
      this.#firsts.set(episode.row, Number(c.first));
    }
    for (const { episode, note } of reservations) {
      if (episode && note) episode.audit.seq = Math.max(episode.audit.seq, note.seq);
    }
  }

  get isDirty(): boolean {
    return this.#waiting.length > 0 || this.#changed.size > 0;
  }

  /** The place of an admission, which is told by its reservation. */
  admit(episode: EpisodeRecord): number {
    episode.audit.denial = undefined;
    return ++episode.audit.seq;
  }

  /** Notes down a decision; the returned function takes it back while it is not written. */
  add(episode: EpisodeRecord, at: number, kind: AuditKind, data: AuditData, admit?: AdmitNote): () => void {
    episode.audit.denial = undefined;
    const added = this.#push(episode, at, kind, data, admit);
    return () => {
      this.#waiting = this.#waiting.filter((entry) => entry !== added);
    };
  }

  /** The request was never admitted: nothing of it is written. */
  forget(requestId: string): void {
    this.#waiting = this.#waiting.filter(({ data }) => data.request !== requestId);
  }

  /** Notes down a denial, with those before it by the same budget. */
  deny(episode: EpisodeRecord, at: number, data: AuditData & { count: number }): void {
    const last = episode.audit.denial;
    if (!last || last.data.scope !== data.scope || last.data.id !== data.id) {
      episode.audit.denial = this.#push(episode, at, "deny", data, undefined);
      return;
    }
    last.data = { ...data, count: Number(last.data.count) + data.count };
    if (last.row) this.#changed.add(last.row);
  }

  /** What the table and the reservations (`open`) of the episode have, so without the decisions of this turn. */
  entries({ audit }: EpisodeRecord, open: readonly ReservationRecord[], after: number): AuditEntry[] {
    const found: { seq: number; read: () => AuditEntry }[] = [];
    const admitted = ({ seq, at, ...note }: AdmitNote, request: string, reserved: number): AuditEntry => {
      return { seq, at, kind: "admit", data: { request, ...note, reserved } };
    };
    for (const { note, requestId, tokens } of open) {
      if (note && note.seq > after) found.push({ seq: note.seq, read: () => admitted(note, requestId, tokens) });
    }
    const told = this.#read.all(audit.row, after, after).flatMap((c) => JSON.parse(String(c.entries)) as Told[]);
    for (const [seq, at, kind, data, admit] of told) {
      if (seq > after) found.push({ seq, read: () => ({ seq, at, kind, data }) });
      if (admit && admit.seq > after) {
        found.push({ seq: admit.seq, read: () => admitted(admit, String(data.request), Number(data.reserved)) });
      }
    }
    const kept = found.sort((a, b) => a.seq - b.seq).slice(-AUDIT_KEPT);
    return kept.slice(0, AUDIT_PAGE).map(({ read }) => read());
  }

  /** Inside of a transaction; nothing is settled before `written`. */
  write(): void {
    let next = this.#nextRow;
    this.#writing = [];
    for (const [episode, entries] of Map.groupBy(this.#waiting, (entry) => entry.episode)) {
      if (episode.gone) continue;
      next += entries.length;
      this.#writing.push({ row: next - 1, prev: episode.audit.row, episode, entries });
      episode.audit.row = next - 1;
    }
    for (const row of this.#writing) this.#insert.add(...valuesOf(row));
    this.#insert.run();
    for (const row of this.#changed) if (!row.episode.gone) this.#replace.run(...valuesOf(row));
    const [oldest = this.#nextRow] = this.#firsts.values();
    this.#cutting = Math.min(Math.max(oldest, next - MOST_ENTRIES), this.#cutTo + MOST_CUT);
    if (this.#cutting > this.#cutTo) this.#cut.run(this.#cutting);
  }

  /** The transaction was not committed. */
  unwritten(): void {
    for (const { episode, prev } of this.#writing) episode.audit.row = prev;
    this.#writing = [];
  }

  /** The transaction was committed. */
  written(): void {
    for (const row of this.#writing) {
      for (const entry of row.entries) entry.row = row;
      if (!this.#firsts.has(row.episode.row)) this.#firsts.set(row.episode.row, row.row);
      this.#nextRow = row.row + 1;
    }
    this.#cutTo = Math.max(this.#cutTo, this.#cutting);
    this.#waiting = [];
    this.#writing = [];
    this.#changed.clear();
  }

  /** Its rows go when all that began before it are over, too. */
  drop(episodeRow: number): void {
    this.#firsts.delete(episodeRow);
  }

  #push(episode: EpisodeRecord, at: number, kind: AuditKind, data: AuditData, admit: AdmitNote | undefined): Waiting {
    const tail = episode.audit;
    const entry = { episode, admit, row: undefined, seq: ++tail.seq, at, kind, data };
    this.#waiting.push(entry);
    if (this.#waiting.length > MOST_WAITING) this.#waiting.shift();
    return entry;
  }
}

function valuesOf({ row, prev, episode, entries }: EntryRow) {
  const told = entries.map(({ seq, at, kind, data, admit }): Told => [seq, at, kind, data, admit ?? null]);
  return [row, episode.row, entries.at(-1)?.seq ?? 0, prev, JSON.stringify(told)];
}
