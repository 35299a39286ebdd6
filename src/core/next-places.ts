/**
 * What requests that find a full line are told: when a place in it will be free. A place is free when the next request starts, and each
 * refused request is told another start, or all would come back for the same place.
 */
export class NextPlaces {
  /** Instants that were told and are still to come, in order. */
  #told: number[] = [];

  /**
   * Whole seconds from `now`, at least 1. `ends`: when each running request will end, on the clock's scale in milliseconds; `serviceMs`: how
   * long one runs; `most`: how many instants are told before the last one is told again, for callers who do not come back.
   */
  tell(now: number, ends: readonly number[], serviceMs: number, most: number): number {
    this.#told = this.#told.filter((at) => at > now);
    const seconds = Math.max(
      1,
      Math.ceil(this.#startMs(Math.min(this.#told.length, most - 1), now, ends, serviceMs) / 1000),
    );
    if (this.#told.length < most) this.#told.push(now + seconds * 1000);
    return seconds;
  }

  /** Until `earlier` requests and one more have started: each slot takes another one when its own ends. */
  #startMs(earlier: number, now: number, ends: readonly number[], serviceMs: number): number {
    // One that runs for longer than they do on average can end at any moment.
    const inOrder = ends.map((at) => Math.max(at, now)).sort((a, b) => a - b);
    const end = inOrder[earlier % ends.length];
    if (end === undefined) return 0;
    return end - now + Math.floor(earlier / ends.length) * serviceMs;
  }
}
