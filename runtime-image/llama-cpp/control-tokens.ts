/** Finds the texts that a tokenizer turns into control tokens, such as `<|im_end|>`. Models have up to thousands of them. */
export class ControlTokens {
  readonly #texts: ReadonlySet<string>;
  readonly #firsts: ReadonlySet<string>;
  /** Distinct lengths, longest first, as the tokenizer takes the longest match. */
  readonly #lengths: readonly number[];

  constructor(texts: ReadonlySet<string>) {
    this.#texts = texts;
    this.#firsts = new Set([...texts].map((text) => text.charAt(0)));
    this.#lengths = [...new Set([...texts].map((text) => text.length))].sort((a, b) => b - a);
  }

  /** The first one that begins at `from` or behind. */
  find(text: string, from: number): { at: number; length: number } | undefined {
    for (let at = from; at < text.length; at++) {
      if (!this.#firsts.has(text.charAt(at))) continue;
      const length = this.#lengths.find((n) => this.#texts.has(text.slice(at, at + n)));
      if (length !== undefined) return { at, length };
    }
    return undefined;
  }

  /**
   * Marks every control text in what callers wrote, so that it stays text: where `mark` stands the prompt is cut before it is tokenised,
   * and neither half is a control token. Otherwise a message could close its own turn and speak as the system.
   */
  disarm(text: string, mark: string): string {
    let out = "";
    let done = 0;
    for (let hit = this.find(text, 0); hit; hit = this.find(text, hit.at + 1)) {
      out += text.slice(done, hit.at + 1) + mark;
      done = hit.at + 1;
    }
    return out + text.slice(done);
  }

  /** Cuts a long text in front of control tokens. The tokenizer's time grows with the square of how many one text holds. */
  *pieces(text: string, least = 4096): Generator<string> {
    let start = 0;
    while (text.length - start > least) {
      const cut = this.find(text, start + least)?.at;
      if (cut === undefined) break;
      yield text.slice(start, cut);
      start = cut;
    }
    yield text.slice(start);
  }
}
