import type { LlamaContext, LlamaContextSequence, SequenceEvaluateOptions, Token } from "node-llama-cpp";

/** One KV cache of the engine: a list of tokens that were evaluated. */
export interface Sequence {
  /** Tokens in the cache. */
  readonly length: number;
  /** How many of `tokens` the cache begins with. */
  sharedWith(tokens: readonly Token[]): number;
  /** Drops what is behind the first `length` tokens. Returns what is really kept: less where the model's memory cannot be cut there. */
  cut(length: number): Promise<number>;
  /** Adds tokens without sampling. */
  append(tokens: readonly Token[]): Promise<void>;
  /** Adds `token`, then samples; each further step adds the token that was sampled before it. */
  sample(token: Token, options: SequenceEvaluateOptions): AsyncGenerator<Token, void>;
  save(file: string): Promise<void>;
  /** Throws for a file of another layout; the content is not checked. */
  load(file: string): Promise<void>;
  /** Empties it, whatever state an error left it in. */
  reset(): Promise<void>;
}

export class EngineSequence implements Sequence {
  readonly #context: LlamaContext;
  #sequence: LlamaContextSequence;

  constructor(context: LlamaContext) {
    this.#context = context;
    this.#sequence = makeSequence(context);
  }

  get length(): number {
    return this.#sequence.nextTokenIndex;
  }

  sharedWith(tokens: readonly Token[]): number {
    return Math.min(this.#sequence.compareContextTokens([...tokens]).firstDifferentIndex, tokens.length);
  }

  async cut(length: number): Promise<number> {
    if (length >= this.length) return this.length;
    // Recurrent models cannot forget their last tokens. The library would evaluate the whole prefix again in one go that nothing can
    // interrupt; so start from nothing, in chunks.
    const possible = length === 0 || this.#sequence.getRestoreToPrefixIndexEvaluationSize(length - 1) <= 0;
    await this.#sequence.eraseContextTokenRanges([{ start: possible ? length : 0, end: this.length }]);
    return this.length;
  }

  async append(tokens: readonly Token[]): Promise<void> {
    if (tokens.length > 0) await this.#sequence.evaluateWithoutGeneratingNewTokens([...tokens]);
  }

  sample(token: Token, options: SequenceEvaluateOptions): AsyncGenerator<Token, void> {
    return this.#sequence.evaluate([token], options);
  }

  async save(file: string): Promise<void> {
    await this.#sequence.saveStateToFile(file);
  }

  async load(file: string): Promise<void> {
    await this.#sequence.loadStateFromFile(file, { acceptRisk: true });
  }

  async reset(): Promise<void> {
    await this.#sequence.dispose();
    this.#sequence = makeSequence(this.#context);
  }
}

/** Prompt and answer are bounded by the caller; if the library ever ran out of room it would drop the oldest tokens without a word. */
function makeSequence(context: LlamaContext): LlamaContextSequence {
  return context.getSequence({
    contextShift: {
      strategy: () => {
        throw new Error("the context is full");
      },
    },
    checkpoints: { max: 0, interval: false },
  });
}
