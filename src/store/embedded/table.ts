import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite";
import { Bag } from "../../lib/bag.ts";
import { Insert } from "./insert.ts";
import type { Row } from "./records.ts";

/** Writes what has changed of one table: the last state of each record, however often it changed since the last commit. */
export class Table<R extends Row> {
  readonly #insert: Insert;
  readonly #replace: StatementSync;
  readonly #delete: StatementSync;
  readonly #values: (record: R) => SQLInputValue[];
  /** Records that the table does not have. */
  readonly #fresh = new Bag<R>();
  /** Those that it has, as they were. */
  readonly #changed = new Bag<R>();

  /** `values` are all columns but the first, which is `row`. */
  constructor(db: DatabaseSync, name: string, columns: number, values: (record: R) => SQLInputValue[]) {
    this.#insert = new Insert(db, name, columns + 1);
    this.#replace = db.prepare(`INSERT OR REPLACE INTO ${name} VALUES (?${", ?".repeat(columns)})`);
    this.#delete = db.prepare(`DELETE FROM ${name} WHERE row BETWEEN ? AND ?`);
    this.#values = values;
  }

  get isDirty(): boolean {
    return this.#fresh.size > 0 || this.#changed.size > 0;
  }

  /** It is new, changed or gone. What comes and goes between two commits is never written, and not kept until then. */
  mark(record: R): void {
    if (record.stored) {
      if (record.place < 0) this.#changed.add(record);
    } else if (record.gone) this.#fresh.delete(record);
    else if (record.place < 0) this.#fresh.add(record);
  }

  /** All columns of a record, `row` first. */
  rowOf(record: R): SQLInputValue[] {
    return [record.row, ...this.#values(record)];
  }

  /** Brings in all changes, inside of a transaction; nothing is forgotten before `written`. */
  write(): void {
    for (const record of this.#fresh.list()) this.#insert.add(...this.rowOf(record));
    this.#insert.run();
    const gone: number[] = [];
    for (const record of this.#changed.list()) {
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

  /** What `write` did was committed. */
  written(): void {
    for (const records of [this.#fresh, this.#changed]) {
      for (const record of records.list()) {
        records.delete(record);
        record.stored = !record.gone;
      }
    }
  }
}
