/** Time as an argument. `now` is monotonic, in milliseconds from an arbitrary start; `wall` is Unix time in milliseconds. */
export interface Clock {
  now(): number;
  wall(): number;
  /** Calls `run` once after `ms`; the returned function cancels it. Timers never keep the process alive on their own. */
  after(ms: number, run: () => void): () => void;
}

/** setTimeout fires at once for anything longer. */
const MAX_TIMER_MS = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => performance.now(),
  wall: () => Date.now(),
  after(ms, run) {
    const timer = setTimeout(run, Math.min(Math.max(0, ms), MAX_TIMER_MS));
    timer.unref();
    return () => clearTimeout(timer);
  },
};
