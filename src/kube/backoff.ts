/**
 * A token bucket whose tokens can be taken in advance: `take` gives the milliseconds to wait for the one that was taken. Time comes in as
 * milliseconds of one clock.
 */
export class TokenBucket {
  readonly #perMs: number;
  readonly #burst: number;
  #tokens: number;
  #at: number;

  constructor(perSecond: number, burst: number, now: number) {
    this.#perMs = perSecond / 1000;
    this.#burst = burst;
    this.#tokens = burst;
    this.#at = now;
  }

  take(now: number): number {
    this.#refill(now);
    this.#tokens -= 1;
    return this.#tokens >= 0 ? 0 : -this.#tokens / this.#perMs;
  }

  /** Takes one only if it is there. */
  tryTake(now: number): boolean {
    this.#refill(now);
    if (this.#tokens < 1) return false;
    this.#tokens -= 1;
    return true;
  }

  #refill(now: number): void {
    this.#tokens = Math.min(this.#burst, this.#tokens + (now - this.#at) * this.#perMs);
    this.#at = now;
  }
}

/**
 * Milliseconds to wait after `failures` (1 or more) in a row of one key: 5 ms doubled up to 300 s, less up to a half of it by `random` (0 to 1),
 * so that keys that failed together do not come back together.
 */
export function retryMs(failures: number, random: () => number): number {
  return Math.min(300_000, 5 * 2 ** Math.min(failures - 1, 18)) * (1 - random() / 2);
}
