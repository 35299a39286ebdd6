const MOST_LINES = 50;
const MOST_CHARS = 4000;

/** Cuts a stream into lines and keeps the last of them. Bounded, whatever is written. */
export class TailBuffer {
  readonly #onLine: (line: string) => void;
  readonly #decoder = new TextDecoder();
  #lines: string[] = [];
  #rest = "";

  constructor(onLine: (line: string) => void) {
    this.#onLine = onLine;
  }

  get lines(): readonly string[] {
    return this.#lines;
  }

  write(chunk: Uint8Array): void {
    const parts = (this.#rest + this.#decoder.decode(chunk, { stream: true })).split("\n");
    this.#rest = (parts.pop() ?? "").slice(0, MOST_CHARS);
    for (const line of parts) this.#add(line);
  }

  /** What came without a line's end is a line too. */
  end(): void {
    if (this.#rest !== "") this.#add(this.#rest);
    this.#rest = "";
  }

  #add(text: string): void {
    const line = text.slice(0, MOST_CHARS).trimEnd();
    this.#lines.push(line);
    if (this.#lines.length > MOST_LINES) this.#lines.shift();
    this.#onLine(line);
  }
}
