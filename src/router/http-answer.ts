/** What comes of one HTTP/1.1 answer. */
export interface AnswerEvents {
  /**
   * Names in lower case; what comes more than once is joined by commas. A status below 200 is an interim answer: the real one, with a head
   * of its own, follows.
   */
  onHead(status: number, headers: Record<string, string>): void;
  /** The bytes are the receiver's to keep. */
  onBody(bytes: Buffer): void;
}

/** Longest head, chunk size or trailer line, in bytes. */
const MAX_LINE_BYTES = 16 * 1024;
const HEAD_END = "\r\n\r\n";
const LINE_END = "\r\n";

/**
 * Reads one answer to a GET, POST or DELETE from the bytes of a connection: `head`, then a body that is `counted`, in chunks (`size`,
 * `chunk`, `chunk-end` over and over, then `trailers`), or `to-close`; then `done`. Strict: of two ways to read an answer it takes none,
 * and throws.
 */
export class AnswerParser {
  /** The connection can carry another request after this answer. */
  reusable = true;
  #state: "head" | "counted" | "size" | "chunk" | "chunk-end" | "trailers" | "to-close" | "done" = "head";
  /** Bytes that are left of the body or chunk. */
  #left = 0;
  /** The beginning of a head or line whose end has not come yet. */
  #unfinished: Buffer | undefined = undefined;
  readonly #events: AnswerEvents;

  constructor(events: AnswerEvents) {
    this.#events = events;
  }

  /** True when the answer is complete. Throws on anything that is no answer, or comes after it. */
  push(bytes: Buffer): boolean {
    let at = 0;
    while (at < bytes.length) at = this.#step(bytes, at);
    return this.#state === "done";
  }

  /** The other side has closed. True when that is how this answer ends. */
  end(): boolean {
    if (this.#state === "to-close") this.#state = "done";
    return this.#state === "done";
  }

  /** Returns where to go on. */
  #step(bytes: Buffer, at: number): number {
    switch (this.#state) {
      case "head":
        return this.#text(bytes, at, HEAD_END);
      case "counted":
      case "chunk":
        return this.#body(bytes, at);
      case "to-close":
        this.#events.onBody(bytes.subarray(at));
        return bytes.length;
      case "size":
      case "chunk-end":
      case "trailers":
        return this.#text(bytes, at, LINE_END);
      case "done":
        throw new Error("bytes after the end of an answer");
    }
  }

  /** Reads up to `mark` and behind it; keeps what is there when it is not there yet. */
  #text(bytes: Buffer, at: number, mark: string): number {
    const before = this.#unfinished?.length ?? 0;
    const all = this.#unfinished ? Buffer.concat([this.#unfinished, bytes.subarray(at)]) : bytes;
    const start = this.#unfinished ? 0 : at;
    const end = all.indexOf(mark, start, "latin1");
    if ((end < 0 ? all.length : end) - start > MAX_LINE_BYTES) throw new Error("a line is longer than 16 KiB");
    if (end < 0) {
      this.#unfinished = this.#unfinished ? all : Buffer.from(bytes.subarray(at));
      return bytes.length;
    }
    const next = this.#unfinished ? at + end + mark.length - before : end + mark.length;
    this.#unfinished = undefined;
    this.#read(all.toString("latin1", start, end));
    return next;
  }

  #read(text: string): void {
    if (this.#state === "head") this.#readHead(text);
    else if (this.#state === "size") this.#readSize(text);
    else if (this.#state === "chunk-end") {
      if (text !== "") throw new Error("a chunk is longer than it said");
      this.#state = "size";
    } else if (text === "") this.#state = "done"; // of the trailers, which say nothing here
  }

  #body(bytes: Buffer, at: number): number {
    const end = Math.min(at + this.#left, bytes.length);
    this.#left -= end - at;
    if (this.#left === 0) this.#state = this.#state === "chunk" ? "chunk-end" : "done";
    this.#events.onBody(at === 0 && end === bytes.length ? bytes : bytes.subarray(at, end));
    return end;
  }

  #readHead(head: string): void {
    const status = /^HTTP\/1\.1 ([1-5]\d\d)(?: |\r\n|$)/.exec(head)?.[1];
    if (status === undefined) throw new Error("this is no HTTP/1.1 answer");
    const headers = headersOf(head);
    if (status[0] !== "1") {
      if (headers.connection?.toLowerCase() === "close") this.reusable = false;
      this.#state = this.#bodyOf(status, headers["content-length"], headers["transfer-encoding"]);
    }
    this.#events.onHead(Number(status), headers);
  }

  #bodyOf(
    status: string,
    length: string | undefined,
    encoding: string | undefined,
  ): "counted" | "size" | "to-close" | "done" {
    if (encoding !== undefined && length !== undefined) throw new Error("an answer has both a length and an encoding");
    if (status === "204" || status === "304") return "done";
    if (encoding !== undefined) {
      if (encoding.toLowerCase() !== "chunked") throw new Error("the only transfer encoding is chunked");
      return "size";
    }
    if (length === undefined) {
      this.reusable = false;
      return "to-close";
    }
    // Two lengths, joined, are no number either.
    if (!/^\d{1,15}$/.test(length)) throw new Error("a length is no number");
    this.#left = Number(length);
    return this.#left === 0 ? "done" : "counted";
  }

  #readSize(line: string): void {
    const size = /^([0-9a-fA-F]{1,8})[ \t]*(?:;|$)/.exec(line)?.[1];
    if (size === undefined) throw new Error("a chunk has no size");
    this.#left = Number.parseInt(size, 16);
    this.#state = this.#left === 0 ? "trailers" : "chunk";
  }
}

/** The fields below the first line. */
function headersOf(head: string): Record<string, string> {
  const headers: Record<string, string> = {};
  for (let line = head.indexOf(LINE_END); line >= 0; ) {
    const next = head.indexOf(LINE_END, line + 2);
    const colon = head.indexOf(":", line + 2);
    if (colon <= line + 2 || (next >= 0 && colon > next)) throw new Error("a header has no name");
    const name = head.slice(line + 2, colon).toLowerCase();
    const value = head.slice(colon + 1, next < 0 ? undefined : next).trim();
    const known = headers[name];
    headers[name] = known === undefined ? value : `${known}, ${value}`;
    line = next;
  }
  return headers;
}
