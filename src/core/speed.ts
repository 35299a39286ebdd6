/** Weight that a sample still has after the next one: the last ten or so count. */
const MEMORY = 0.9;
/** Below this many new tokens the fixed costs of a request hide the speed of its prefill. */
const LEAST_PREFILL = 64;

/** What one finished request tells about its instance's speed. Tokens as the engine counted them, times in milliseconds. */
export interface Sample {
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
  /** From dispatch to the first token. */
  firstTokenMs: number;
  /** From dispatch to the end. */
  totalMs: number;
}

/** Measured speeds of one instance under the load it has; all estimates are 0 until something was measured. */
export class Speed {
  readonly #prefill = new Rate();
  readonly #decode = new Rate();
  readonly #service = new Mean();

  observe({ promptTokens, cachedTokens, completionTokens, firstTokenMs, totalMs }: Sample): void {
    const read = promptTokens - cachedTokens;
    if (read >= LEAST_PREFILL) this.#prefill.add(read, firstTokenMs);
    if (completionTokens > 1) this.#decode.add(completionTokens - 1, totalMs - firstTokenMs);
  }

  /** A slot was held for this long. */
  observeService(ms: number): void {
    this.#service.add(ms);
  }

  /** Time that `tokens` of new prompt take before their first token, in milliseconds. */
  prefillMs(tokens: number): number {
    return this.#prefill.perMs === 0 ? 0 : tokens / this.#prefill.perMs;
  }

  /** How long a request holds its slot, in milliseconds. */
  get serviceMs(): number {
    return this.#service.value;
  }

  get prefillTokensPerSecond(): number {
    return this.#prefill.perMs * 1000;
  }

  /** Of one stream. */
  get decodeTokensPerSecond(): number {
    return this.#decode.perMs * 1000;
  }
}

/** Tokens over time, both fading: a long sample counts for more than a short one. */
class Rate {
  #tokens = 0;
  #ms = 0;

  add(tokens: number, ms: number): void {
    if (!(tokens > 0 && ms > 0 && Number.isFinite(tokens + ms))) return;
    this.#tokens = this.#tokens * MEMORY + tokens;
    this.#ms = this.#ms * MEMORY + ms;
  }

  get perMs(): number {
    return this.#ms === 0 ? 0 : this.#tokens / this.#ms;
  }
}

class Mean {
  #count = 0;
  value = 0;

  add(sample: number): void {
    if (!(sample >= 0 && Number.isFinite(sample))) return;
    // The plain mean of the first samples, then a fading one.
    this.#count++;
    this.value += (sample - this.value) * Math.max(1 - MEMORY, 1 / this.#count);
  }
}
