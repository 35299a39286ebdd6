import type { Clock } from "../../src/lib/clock.ts";

/**
 * A clock for code that waits between tries: short waits end at the next turn of the event loop and are noted in `waits`; those of
 * `patience` milliseconds and more, which guard against silence, only when the test says `expire()`.
 */
export class EagerClock implements Clock {
  readonly waits: number[] = [];
  readonly #patience: number;
  #guards = new Set<() => void>();

  constructor(patience = 60_000) {
    this.#patience = patience;
  }
  now = (): number => performance.now();
  wall = (): number => Date.now();

  after(ms: number, run: () => void): () => void {
    if (ms >= this.#patience) {
      const guard = () => run();
      this.#guards.add(guard);
      return () => this.#guards.delete(guard);
    }
    this.waits.push(ms);
    const timer = setImmediate(run);
    return () => clearImmediate(timer);
  }

  /** How many guards wait now. */
  get guards(): number {
    return this.#guards.size;
  }

  expire(): void {
    const due = this.#guards;
    this.#guards = new Set();
    for (const run of due) run();
  }
}
