/** Text of `tokens` that follow `before`; bytes that are no whole character come as U+FFFD. */
export type Detokenize = (tokens: number[], before: number[]) => string;

const REPLACEMENT = "\uFFFD";
/** A character has at most four bytes: after so many tokens without a step forward the bytes are no character at all. */
const PATIENCE = 4;
/** Tokenizers that write spaces in front of words look at the tokens before. */
const CONTEXT_TOKENS = 4;

/** Turns tokens into text as they come. Bytes of a character that is not whole yet are held back. */
export class TokenText {
  readonly #detokenize: Detokenize;
  #before: number[] = [];
  /** Tokens whose text is not out as a whole, and how much of it is. */
  #pending: number[] = [];
  #out = 0;
  #waits = 0;

  constructor(detokenize: Detokenize) {
    this.#detokenize = detokenize;
  }

  /** The text that became certain with this token. What never becomes a character is dropped at the end, with this object. */
  push(token: number): string {
    this.#pending.push(token);
    const text = this.#detokenize(this.#pending, this.#before);
    const whole = text.endsWith(REPLACEMENT) ? text.replace(/\uFFFD+$/, "") : text;
    this.#waits = whole.length > this.#out ? 0 : this.#waits + 1;
    const done = whole.length === text.length || this.#waits >= PATIENCE;
    const piece = (done ? text : whole).slice(this.#out);
    if (done) {
      this.#before = [...this.#before, ...this.#pending].slice(-CONTEXT_TOKENS);
      this.#pending = [];
      this.#out = 0;
      this.#waits = 0;
    } else this.#out = Math.max(this.#out, whole.length);
    return piece;
  }
}
