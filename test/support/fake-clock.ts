import type { Clock } from "../../src/lib/clock.ts";

/** A clock that moves only when told to. Timers fire in order of their instants, each at its own instant. */
export class FakeClock implements Clock {
  #now = 0;
  #wall: number;
  #timers: { at: number; run: () => void }[] = [];

  constructor(wall = Date.UTC(2026, 0, 1)) {
    this.#wall = wall;
  }
  now = (): number => this.#now;
  wall = (): number => this.#wall;

  after(ms: number, run: () => void): () => void {
    const timer = { at: this.#now + Math.max(0, ms), run };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((t) => t !== timer);
    };
  }

  advance(ms: number): void {
    const end = this.#now + ms;
    for (;;) {
      const next = this.#timers.filter((t) => t.at <= end).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.#timers = this.#timers.filter((t) => t !== next);
      this.#move(next.at);
      next.run();
    }
    this.#move(end);
  }

  /** A wall-clock step, as an administrator or NTP makes it: monotonic time stays. */
  stepWall(ms: number): void {
    this.#wall += ms;
  }

  #move(to: number): void {
    this.#wall += to - this.#now;
    this.#now = to;
  }
}
