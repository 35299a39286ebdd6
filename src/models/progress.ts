import type { Clock } from "../lib/clock.ts";

/** How far the download of one model is. `bytes` counts what was already there from an earlier try; `bytesPerSecond` does not. */
export interface DownloadProgress {
  /** What is being fetched, for people: a file name, or a repository with its revision. */
  name: string;
  bytes: number;
  /** Absent while unknown. */
  total?: number;
  /** Average of this process, or of what this process saw another one do. */
  bytesPerSecond: number;
  /** Another process is downloading the same thing, and this one waits for it. */
  waiting: boolean;
}

const EVERY_MS = 100;

/** Turns positions into progress reports: at most ten a second, and always the last one. */
export class ProgressMeter {
  readonly #name: string;
  readonly #clock: Clock;
  readonly #report: (progress: DownloadProgress) => void;
  readonly #waiting: boolean;
  #start: { at: number; bytes: number } | undefined;
  #reportedAt = Number.NEGATIVE_INFINITY;

  constructor(name: string, clock: Clock, report: (progress: DownloadProgress) => void, waiting = false) {
    this.#name = name;
    this.#clock = clock;
    this.#report = report;
    this.#waiting = waiting;
  }

  /** The position is now `bytes`. A position that fell (a download begun anew) restarts the average. */
  at(bytes: number, total: number | undefined): void {
    const now = this.#clock.now();
    if (this.#start === undefined || bytes < this.#start.bytes) this.#start = { at: now, bytes };
    if (bytes !== total && now - this.#reportedAt < EVERY_MS) return;
    this.#reportedAt = now;
    const seconds = (now - this.#start.at) / 1000;
    this.#report({
      name: this.#name,
      bytes,
      ...(total === undefined ? {} : { total }),
      bytesPerSecond: seconds > 0 ? (bytes - this.#start.bytes) / seconds : 0,
      waiting: this.#waiting,
    });
  }
}
