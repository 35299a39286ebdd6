import type { Clock } from "../lib/clock.ts";
import { divideThreads } from "./threads.ts";

/** A pause shorter than this between two requests does not move threads to others and back. */
const SETTLE_MS = 100;

/** What an instance shows to, and takes from, the lender. */
interface Borrower {
  readonly id: string;
  /** It has a process. */
  readonly started: boolean;
  /** It computes now. */
  readonly working: boolean;
  setThreads(count: number): void;
}

/** Keeps the division of the CPUs up to date: takes threads back at once, gives more only when things have settled. */
export class ThreadLender {
  readonly #clock: Clock;
  readonly #cpus: number;
  readonly #sent = new Map<string, number>();
  #target = new Map<string, number>();
  #borrowers: readonly Borrower[] = [];
  #cancel: (() => void) | undefined;

  constructor(clock: Clock, cpus: number) {
    this.#clock = clock;
    this.#cpus = cpus;
  }

  /** A new process was told this number at its start. */
  started(id: string, threads: number): void {
    this.#sent.set(id, threads);
  }

  update<B extends Borrower>(borrowers: readonly B[], most: (borrower: B) => number): void {
    this.#borrowers = borrowers;
    this.#target = divideThreads(
      this.#cpus,
      borrowers.map((borrower) => ({ id: borrower.id, working: borrower.working, most: most(borrower) })),
    );
    this.#send((target, sent) => target < sent);
    this.#cancel?.();
    this.#cancel = this.#clock.after(SETTLE_MS, () => this.#send((target, sent) => target > sent));
  }

  #send(due: (target: number, sent: number) => boolean): void {
    for (const borrower of this.#borrowers) {
      const target = this.#target.get(borrower.id);
      const sent = this.#sent.get(borrower.id);
      if (target === undefined || sent === undefined || !borrower.started || !due(target, sent)) continue;
      this.#sent.set(borrower.id, target);
      borrower.setThreads(target);
    }
  }
}
