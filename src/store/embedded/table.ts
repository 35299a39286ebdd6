import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite";
import { Insert } from "./insert.ts";
import type { Row } from "./records.ts";

/** Writes what has changed of one table: the last state of each record, however often it changed since the last commit. */
export class Table<R extends Row> {
  readonly #insert: Insert;
  readonly #replace: StatementSync;
  readonly #delete: StatementSync;
  readonly #values: (record: R) => SQLInputValue[];
  /** Records that the table does not have. */
  #fresh: R[] = [];
  /** Those that it has, as they were. */
  #changed: R[] = [];

  /** `values` are all columns but the first, which is `row`. */
  constructor(db: DatabaseSync, name: string, columns: number, values: (record: R) => SQLInputValue[]) {
    this.#insert = new Insert(db, name, columns + 1);
    this.#replace = db.prepare(`INSERT OR REPLACE INTO ${name} VALUES (?${", ?".repeat(columns)})`);
    this.#delete = db.prepare(`DELETE FROM ${name} WHERE row BETWEEN ? AND ?`);
    this.#values = values;
  }

  get isDirty(): boolean {
    return this.#fresh.length > 0 || this.#changed.length > 0;
  }

  mark(record: R): void {
    if (record.dirty) return;
    record.dirty = true;
    (record.stored ? this.#changed : this.#fresh).push(record);
  }

  /** All columns of a record, `row` first. */
  rowOf(record: R): SQLInputValue[] {
    return [record.row, ...this.#values(record)];
  }

  /** Brings in all changes, inside of a transaction; nothing is forgotten before `written`. */
  write(): void {
    for (const record of this.#fresh) if (!record.gone) this.#insert.add(...this.rowOf(record));
    this.#insert.run();
    const gone: number[] = [];
    for (const record of this.#changed) {
      if (record.gone) gone.push(record.row);
      else this.#replace.run(...this.rowOf(record));
    }
    this.#deleteAll(gone);
  }

  /** What came one after another mostly goes so, too: a statement for each run of rows. */
  #deleteAll(rows: number[]): void {
    rows.sort((a, b) => a - b);
    let [first] = rows;
    for (const [i, row] of rows.entries()) {
      if (first === undefined || rows[i + 1] === row + 1) continue;
      this.#delete.run(first, row);
      first = rows[i + 1];
    }
  }

  /** It was not committed: forgets what came and went in the meantime, so that a disk that stays full fills no memory. */
  prune(): void {
    this.#fresh = this.#fresh.filter((record) => !record.gone);
  }

  /** What `write` did was committed. */
  written(): void {
    for (const records of [this.#fresh, this.#changed]) {
      for (const record of records) {
        record.dirty = false;
        record.stored = !record.gone;
      }
    }
    this.#fresh = [];
    this.#changed = [];
  }
}
