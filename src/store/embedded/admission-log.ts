import { closeSync, constants, existsSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { DatabaseSync, SQLInputValue } from "node:sqlite";
import { crc32 } from "node:zlib";
import { Insert } from "./insert.ts";

/** Beside the database. */
export const ADMISSION_LOG = "admissions.log";
/** The process of a reservation of before format 4, which may have been sent to any: none has this name, or can say that it never saw it. */
export const UNNAMED_PROCESS = "";

/** Of the table `reservations`. */
const COLUMNS = 10;

/** Rows of it that were made in one turn. */
type Rows = readonly (readonly SQLInputValue[])[];

/**
 * The reservations that no transaction has brought into the tables yet: one append for all admissions of a turn costs far less than a
 * transaction, and a request that ends soon never comes into the table at all.
 *
 * A line is a check sum and the JSON `[epoch, row, row, …]`. Each transaction that writes the tables also raises the epoch there, which makes
 * void what was appended before; the next line goes over it, at the beginning of the file. So the file stays small, and is read up to the first
 * line that is not whole, or of a former epoch. Like the database's own log it outlives the process at once, and a loss of power can take its end.
 */
export class AdmissionLog {
  readonly #file: number;
  #epoch: number;
  /** Where the last whole line of this epoch ends. */
  #end = 0;

  /** `epoch`: what `absorb` returned. */
  constructor(dir: string, epoch: number) {
    this.#file = openSync(join(dir, ADMISSION_LOG), constants.O_RDWR | constants.O_CREAT, 0o600);
    this.#epoch = epoch;
  }

  /** All of it counts, or nothing: throws when the disk does not take it. */
  append(rows: Rows): void {
    const text = JSON.stringify([this.#epoch, ...rows]);
    const line = Buffer.from(`${sumOf(text)}${text}\n`);
    for (let written = 0; written < line.length; )
      written += writeSync(this.#file, line, written, line.length - written, this.#end + written);
    this.#end += line.length;
  }

  /** Something of it would be lost if the tables' epoch were not raised with what they have now. */
  get isUsed(): boolean {
    return this.#end > 0;
  }

  /** The epoch that the tables have to get, */
  get nextEpoch(): number {
    return this.#epoch + 1;
  }

  /** and have got. */
  restart(): void {
    this.#epoch++;
    this.#end = 0;
  }

  close(): void {
    closeSync(this.#file);
  }
}

/** Brings what a process before left in its log into the tables, and returns their epoch from now on. */
export function absorb(db: DatabaseSync, dir: string): number {
  const epoch = Number(db.prepare("SELECT epoch FROM admission_log").get()?.epoch);
  const file = join(dir, ADMISSION_LOG);
  const lines = existsSync(file) ? readFileSync(file, "utf8").split("\n") : [];
  const reservations = new Insert(db, "reservations", COLUMNS);
  for (const line of lines) {
    const found = rowsOf(line, epoch);
    if (!found) break;
    // A log of format 3 lacks the last column.
    for (const row of found) reservations.add(...row, ...Array(COLUMNS - row.length).fill(UNNAMED_PROCESS));
  }
  db.exec("BEGIN IMMEDIATE");
  try {
    reservations.run();
    db.prepare("UPDATE admission_log SET epoch = ?").run(epoch + 1);
    db.exec("COMMIT");
  } catch (error) {
    if (db.isTransaction) db.exec("ROLLBACK");
    throw error;
  }
  return epoch + 1;
}

const SUM_CHARS = 9;

function sumOf(text: string): string {
  return `${crc32(text)
    .toString(16)
    .padStart(SUM_CHARS - 1, "0")} `;
}

function rowsOf(line: string, epoch: number): SQLInputValue[][] | undefined {
  const text = line.slice(SUM_CHARS);
  if (text === "" || line.slice(0, SUM_CHARS) !== sumOf(text)) return undefined;
  const [of, ...rows] = JSON.parse(text) as [number, ...SQLInputValue[][]];
  return of === epoch ? rows : undefined;
}
