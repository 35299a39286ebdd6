/** Longest time one prefill chunk should take, in milliseconds. Cancel and deadline are looked at between chunks. */
const ALONE_MS = 150;
/** The same while others decode: they get a token after each chunk. */
const SHARED_MS = 75;
/** Chunk before anything was measured, in tokens: short on any machine that can run the model at all. */
const FIRST = 16;
/** How much of a newer measurement counts. */
const WEIGHT = 0.5;

/**
 * Sizes prefill chunks by the speed of those before. A chunk's time has a fixed part, so milliseconds per token depend on its size; as
 * each estimate is made of chunks of about the wanted duration, it settles where a chunk takes just that.
 */
export class ChunkSizer {
  readonly #most: number;
  #msPerToken: number | undefined;

  /** @param most largest chunk, in tokens: the engine's batch. */
  constructor(most: number) {
    this.#most = most;
  }

  /** Tokens of the next chunk: at least 1, at most the batch. */
  next(othersDecode: boolean): number {
    if (this.#msPerToken === undefined) return Math.min(FIRST, this.#most);
    const size = Math.floor((othersDecode ? SHARED_MS : ALONE_MS) / this.#msPerToken);
    return Math.max(1, Math.min(size, this.#most));
  }

  record(tokens: number, ms: number): void {
    const now = Math.max(ms, 0.01) / tokens;
    this.#msPerToken = this.#msPerToken === undefined ? now : this.#msPerToken * (1 - WEIGHT) + now * WEIGHT;
  }
}
