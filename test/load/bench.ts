import type { Summary } from "./samples.ts";

/** One measurement of `npm run bench`. */
export interface Bench {
  readonly name: string;
  /** One line: what its table shows. */
  readonly about: string;
  /** Rounds when nobody asks for another number, so that the whole takes less than two minutes. */
  readonly rounds: number;
  run(context: BenchContext): Promise<Result>;
}

export interface BenchContext {
  rounds: number;
  /** How many pools there are to be, where somebody asks for a number. */
  pools?: number | undefined;
  /** How long a storm is to last, where somebody asks for a time. */
  seconds?: number | undefined;
  /** Aborted by Ctrl-C: everything that was started is stopped, and `run` rejects. */
  signal: AbortSignal;
  /** A folder of this bench's own, removed afterwards. */
  dir: string;
  /** Progress, for people. */
  say(line: string): void;
}

export interface Result {
  /** Titles of the columns after the first; every row has a value or a gap for each. */
  columns: readonly string[];
  rows: Row[];
  /** What the project promises, and whether this run kept it. */
  goals: Goal[];
}

export interface Row {
  name: string;
  values: (Summary | undefined)[];
  /** Why there is no value, or what else is to be known about it. */
  note?: string;
}

export interface Goal {
  text: string;
  measured: Summary;
  /** Of the median. */
  kept: boolean;
}
