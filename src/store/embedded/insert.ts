import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite";

/** Rows of one statement, the most first: to call one costs more than a short row does. */
const SIZES = [32, 8, 1] as const;

/**
 * Adds new rows to one table, many with one statement. A row that is there already, or any other fault, ends the transaction: a statement
 * that could be undone alone would make SQLite keep a copy of each page that it changes.
 */
export class Insert {
  readonly #statements: readonly { values: number; statement: StatementSync }[];
  #values: SQLInputValue[] = [];

  /** `columns`: all of the table. */
  constructor(db: DatabaseSync, table: string, columns: number) {
    const row = `(${Array(columns).fill("?").join(", ")})`;
    this.#statements = SIZES.map((rows) => ({
      values: rows * columns,
      statement: db.prepare(`INSERT OR ROLLBACK INTO ${table} VALUES ${Array(rows).fill(row).join(", ")}`),
    }));
  }

  /** Takes a row for the next `run`. */
  add(...values: SQLInputValue[]): void {
    this.#values.push(...values);
  }

  /** Inside of a transaction. Whatever comes of it, no row is left for another one. */
  run(): void {
    const all = this.#values;
    this.#values = [];
    let at = 0;
    for (const { values, statement } of this.#statements) {
      for (; all.length - at >= values; at += values) statement.run(...all.slice(at, at + values));
    }
  }
}
