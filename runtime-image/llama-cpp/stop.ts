/** Finds stop strings in text that comes in pieces. What may still become one is held back, so no part of one ever leaves. */
export class StopDetector {
  readonly #stops: readonly string[];
  #held = "";

  /** Empty strings are ignored: they would stop everything. */
  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop !== "");
  }

  /** `text` is certain and goes out. After `stopped` nothing more is to be pushed: the rest of the text belongs to nobody. */
  push(piece: string): { text: string; stopped: boolean } {
    const seen = this.#held + piece;
    const at = this.#firstStop(seen);
    if (at !== -1) {
      this.#held = "";
      return { text: seen.slice(0, at), stopped: true };
    }
    const certain = seen.length - this.#possibleStart(seen);
    this.#held = seen.slice(certain);
    return { text: seen.slice(0, certain), stopped: false };
  }

  /** What was held back, when no more text comes. */
  flush(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }

  /** Where the stop string begins that is complete first, or -1. By its end, so that the cut of the pieces does not matter. */
  #firstStop(text: string): number {
    const found = this.#stops
      .map((stop) => ({ at: text.indexOf(stop), length: stop.length }))
      .filter(({ at }) => at !== -1);
    found.sort((a, b) => a.at + a.length - (b.at + b.length) || a.at - b.at);
    return found[0]?.at ?? -1;
  }

  #possibleStart(text: string): number {
    return Math.max(0, ...this.#stops.map((stop) => overlap(text, stop)));
  }
}

/** Length of the longest end of `text` that `marker` begins with, shorter than `marker`. */
export function overlap(text: string, marker: string): number {
  for (let length = Math.min(text.length, marker.length - 1); length > 0; length--) {
    if (marker.startsWith(text.slice(-length))) return length;
  }
  return 0;
}
