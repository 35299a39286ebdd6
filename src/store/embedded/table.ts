import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite";
import type { Row } from "./records.ts";

/** Writes what has changed of one table: the last state of each record, however often it changed since the last commit. */
export class Table<R extends Row> {
  readonly #replace: StatementSync;
  readonly #delete: StatementSync;
  readonly #values: (record: R) => SQLInputValue[];
  #dirty: R[] = [];

  /** `values` are all columns but the first, which is `row`. */
  constructor(db: DatabaseSync, name: string, columns: number, values: (record: R) => SQLInputValue[]) {
    this.#replace = db.prepare(`INSERT OR REPLACE INTO ${name} VALUES (?${", ?".repeat(columns)})`);
    this.#delete = db.prepare(`DELETE FROM ${name} WHERE row = ?`);
    this.#values = values;
  }

  get isDirty(): boolean {
    return this.#dirty.length > 0;
  }

  mark(record: R): void {
    if (record.dirty) return;
    record.dirty = true;
    this.#dirty.push(record);
  }

  /** Inside of a transaction; nothing is forgotten before `written`. */
  write(): void {
    for (const record of this.#dirty) {
      if (!record.gone) this.#replace.run(record.row, ...this.#values(record));
      else if (record.stored) this.#delete.run(record.row);
    }
  }

  /** It was not committed: forgets what came and went in the meantime, so that a disk that stays full fills no memory. */
  prune(): void {
    this.#dirty = this.#dirty.filter((record) => !record.gone || record.stored);
  }

  /** The transaction was committed. */
  written(): void {
    for (const record of this.#dirty) {
      record.dirty = false;
      record.stored = !record.gone;
    }
    this.#dirty = [];
  }
}
