import type { Clock } from "../lib/clock.ts";
import type { OwnLoad } from "../lib/cpus.ts";
import { divideThreads } from "./threads.ts";

/** A pause shorter than this between two requests does not move threads to others and back. */
const SETTLE_MS = 100;

/** What an instance shows to, and takes from, the lender. */
interface Borrower {
  readonly id: string;
  /** It has a process. */
  readonly started: boolean;
  readonly pid: number | undefined;
  /** It computes now. */
  readonly working: boolean;
  setThreads(count: number): void;
}

/** How often it is looked at what other programs take, while an instance works. */
const LOOK_MS = 1000;
/** Other programs may take so much of a CPU before it counts as theirs: something always runs for a moment. */
const TOLERATED = 0.3;

/**
 * Keeps the division of the CPUs up to date: takes threads back at once, gives more only when things have settled. Only what other programs
 * leave free is lent: computing threads wait for each other, so that one which has to share its CPU slows down all of its process.
 */
export class ThreadLender {
  readonly #clock: Clock;
  readonly #cpus: number;
  readonly #otherCpus: (own: OwnLoad) => number;
  readonly #sent = new Map<string, number>();
  #target = new Map<string, number>();
  #borrowers: readonly Borrower[] = [];
  #most: (borrower: Borrower) => number = () => 1;
  /** CPUs that are ours to divide now. */
  #free: number;
  /** Most threads that have computed for us since the last look. */
  #own = 0;
  #cancel: (() => void) | undefined;
  #cancelLook: (() => void) | undefined;

  /** `otherCpus` tells how many CPUs were busy for others than our own processes, on average, since it was asked last. */
  constructor(clock: Clock, cpus: number, otherCpus: (own: OwnLoad) => number) {
    this.#clock = clock;
    this.#cpus = cpus;
    this.#free = cpus;
    this.#otherCpus = otherCpus;
  }

  /** A new process was told this number at its start. */
  started(id: string, threads: number): void {
    this.#sent.set(id, threads);
  }

  update<B extends Borrower>(borrowers: readonly B[], most: (borrower: B) => number): void {
    this.#borrowers = borrowers;
    const limits = new Map(borrowers.map((borrower) => [borrower.id, most(borrower)]));
    this.#most = ({ id }) => limits.get(id) ?? 1;
    if (!this.#isAnyoneWorking()) this.#stopLooking();
    else if (!this.#cancelLook) this.#look();
    this.#divide();
  }

  #divide(): void {
    const users = this.#borrowers.map((one) => ({ id: one.id, working: one.working, most: this.#most(one) }));
    this.#target = divideThreads(this.#free, users);
    this.#send((target, sent) => target < sent);
    this.#cancel?.();
    this.#cancel = this.#clock.after(SETTLE_MS, () => this.#send((target, sent) => target > sent));
  }

  #look = (): void => {
    const free = this.#freeCpus();
    this.#cancelLook = this.#clock.after(LOOK_MS, this.#look);
    if (free === this.#free) return;
    this.#free = free;
    this.#divide();
  };

  #stopLooking(): void {
    if (!this.#cancelLook) return;
    this.#cancelLook();
    this.#cancelLook = undefined;
    this.#own = 0;
  }

  #freeCpus(): number {
    const pids = this.#borrowers.flatMap(({ pid }) => pid ?? []);
    const others = this.#otherCpus({ pids, threads: this.#own });
    this.#own = this.#computing();
    return Math.max(1, this.#cpus - Math.ceil(Math.max(0, others - TOLERATED)));
  }

  #computing(): number {
    let threads = 0;
    for (const { id, started, working } of this.#borrowers) if (started && working) threads += this.#sent.get(id) ?? 0;
    return threads;
  }

  #isAnyoneWorking(): boolean {
    return this.#borrowers.some((one) => one.started && one.working);
  }

  #send(due: (target: number, sent: number) => boolean): void {
    for (const borrower of this.#borrowers) {
      const target = this.#target.get(borrower.id);
      const sent = this.#sent.get(borrower.id);
      if (target === undefined || sent === undefined || !borrower.started || !due(target, sent)) continue;
      this.#sent.set(borrower.id, target);
      borrower.setThreads(target);
    }
    this.#own = Math.max(this.#own, this.#computing());
  }
}
