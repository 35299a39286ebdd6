import { Heap } from "../../core/heap.ts";
import type { Clock } from "../../lib/clock.ts";

/** One timer for many things that are due: calls `run` for each `item` at its instant or soon after it. */
export class Wakeups<T> {
  readonly #clock: Clock;
  readonly #run: (item: T) => void;
  readonly #heap = new Heap<T>();
  #armedAt = Number.POSITIVE_INFINITY;
  #cancel: () => void = () => {};
  #closed = false;

  constructor(clock: Clock, run: (item: T) => void) {
    this.#clock = clock;
    this.#run = run;
  }

  at(instant: number, item: T): void {
    this.#heap.push(instant, item);
    this.#arm();
  }

  close(): void {
    this.#closed = true;
    this.#cancel();
  }

  #arm(): void {
    const next = this.#heap.nextAt;
    if (this.#closed || next >= this.#armedAt || next === Number.POSITIVE_INFINITY) return;
    this.#cancel();
    this.#armedAt = next;
    this.#cancel = this.#clock.after(next - this.#clock.now(), () => this.#fire());
  }

  #fire(): void {
    this.#armedAt = Number.POSITIVE_INFINITY;
    const now = this.#clock.now();
    while (this.#heap.nextAt <= now) {
      const item = this.#heap.pop();
      if (item !== undefined) this.#run(item);
    }
    this.#arm();
  }
}
