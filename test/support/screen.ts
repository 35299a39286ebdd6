import type { Terminal } from "../../src/cli/io.ts";

/** A terminal that understands what our views write, and shows what a person would see. Lines that are too long wrap, also on a resize. */
export class Screen {
  raw = "";
  writes = 0;
  #columns: number;
  #rows: number;
  /** Logical lines, from the first ever written. */
  #lines: string[] = [""];
  /** Of the cursor: index of the line. It is always at a line's start between writes. */
  #at = 0;
  readonly #resized = new Set<() => void>();
  readonly terminal: Terminal;

  constructor(columns: number, rows: number, color = true) {
    this.#columns = columns;
    this.#rows = rows;
    this.terminal = {
      color,
      columns: () => this.#columns,
      rows: () => this.#rows,
      onResize: (listener) => {
        this.#resized.add(listener);
        return () => this.#resized.delete(listener);
      },
      write: (text) => this.#write(text),
    };
  }

  resize(columns: number, rows: number): void {
    // Every line becomes as many as it needs now.
    const cut = (line: string) => line.match(new RegExp(`.{1,${columns}}`, "gu")) ?? [""];
    const before = this.#lines.slice(0, this.#at).flatMap(cut);
    this.#lines = [...before, ...this.#lines.slice(this.#at).flatMap(cut)];
    this.#at = before.length;
    this.#columns = columns;
    this.#rows = rows;
    for (const listener of [...this.#resized]) listener();
  }

  /** What stands on the screen and above it, without colours and empty ends. */
  text(): string {
    return this.#lines.join("\n").trimEnd();
  }

  #write(text: string): void {
    this.raw += text;
    this.writes += 1;
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control sequences are what is read here.
    for (const [, count, code, letters] of text.matchAll(/\x1b\[\??(\d*)([A-Za-z])|([^\x1b]+)/g)) {
      if (letters !== undefined) this.#print(letters);
      else if (code === "A") this.#at = Math.max(0, this.#at - Number(count || 1));
      else if (code === "K") this.#lines[this.#at] = this.#typed;
      else if (code === "J") this.#lines = [...this.#lines.slice(0, this.#at), ""];
    }
  }

  #typed = "";
  #print(letters: string): void {
    for (const letter of letters) {
      if (letter === "\n") {
        this.#lines[this.#at] = this.#typed + (this.#lines[this.#at] ?? "").slice(this.#typed.length);
        this.#at += 1;
        this.#lines[this.#at] ??= "";
        this.#typed = "";
      } else if (letter !== "\r") this.#typed += letter;
    }
  }
}
