/** What comes of one HTTP/1.1 answer. */
export interface AnswerHandler {
  /** `contentType` is "" when the answer says none. */
  onHead(status: number, contentType: string): void;
  /** The bytes are the handler's to keep. False: it does not keep up, and wants no more until it says so. */
  onBody(bytes: Buffer): boolean;
}

/** Longest head, chunk size or trailer line, in bytes. */
const MAX_LINE_BYTES = 16 * 1024;
const HEAD_END = "\r\n\r\n";
const LINE_END = "\r\n";

/**
 * Reads one answer to a POST from the bytes of a connection: `head`, then a body that is `counted`, in chunks (`size`, `chunk`,
 * `chunk-end` over and over, then `trailers`), or `to-close`; then `done`. Strict: of two ways to read an answer it takes none, and throws.
 */
export class AnswerParser {
  /** The connection can carry another request after this answer. */
  reusable = true;
  /** What the handler said to the latest bytes. */
  keepsUp = true;
  #state: "head" | "counted" | "size" | "chunk" | "chunk-end" | "trailers" | "to-close" | "done" = "head";
  /** Bytes that are left of the body or chunk. */
  #left = 0;
  /** The beginning of a head or line whose end has not come yet. */
  #unfinished: Buffer | undefined;
  readonly #handler: AnswerHandler;

  constructor(handler: AnswerHandler) {
    this.#handler = handler;
  }

  get done(): boolean {
    return this.#state === "done";
  }

  /** True when the answer is complete. Throws on anything that is no answer, or comes after it. */
  push(bytes: Buffer): boolean {
    let at = 0;
    while (at < bytes.length) {
      switch (this.#state) {
        case "head":
          at = this.#text(bytes, at, HEAD_END, (head) => this.#readHead(head));
          break;
        case "counted":
        case "chunk":
          at = this.#body(bytes, at);
          break;
        case "to-close":
          this.keepsUp = this.#handler.onBody(bytes.subarray(at));
          at = bytes.length;
          break;
        case "size":
          at = this.#text(bytes, at, LINE_END, (line) => this.#readSize(line));
          break;
        case "chunk-end":
          at = this.#text(bytes, at, LINE_END, (line) => {
            if (line !== "") throw new Error("a chunk is longer than it said");
            this.#state = "size";
          });
          break;
        case "trailers":
          at = this.#text(bytes, at, LINE_END, (line) => {
            if (line === "") this.#state = "done";
          });
          break;
        case "done":
          throw new Error("bytes after the end of an answer");
      }
    }
    return this.done;
  }

  /** The other side has closed. True when that is how this answer ends. */
  end(): boolean {
    if (this.#state === "to-close") this.#state = "done";
    return this.done;
  }

  /** Reads up to `mark` and behind it; keeps what is there when it is not there yet. Returns where to go on. */
  #text(bytes: Buffer, at: number, mark: string, read: (text: string) => void): number {
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
    read(all.toString("latin1", start, end));
    return next;
  }

  #body(bytes: Buffer, at: number): number {
    const end = Math.min(at + this.#left, bytes.length);
    this.#left -= end - at;
    if (this.#left === 0) this.#state = this.#state === "chunk" ? "chunk-end" : "done";
    this.keepsUp = this.#handler.onBody(at === 0 && end === bytes.length ? bytes : bytes.subarray(at, end));
    return end;
  }

  #readHead(head: string): void {
    const status = /^HTTP\/1\.1 ([1-5]\d\d)(?: |\r\n|$)/.exec(head)?.[1];
    if (status === undefined) throw new Error("this is no HTTP/1.1 answer");
    let length: string | undefined;
    let encoding: string | undefined;
    let contentType = "";
    for (let line = head.indexOf(LINE_END); line >= 0; ) {
      const next = head.indexOf(LINE_END, line + 2);
      const field = head.slice(line + 2, next < 0 ? undefined : next);
      line = next;
      const colon = field.indexOf(":");
      if (colon <= 0) throw new Error("a header has no name");
      const value = field.slice(colon + 1).trim();
      switch (field.slice(0, colon).toLowerCase()) {
        case "content-length":
          if (length !== undefined && length !== value) throw new Error("an answer has two lengths");
          length = value;
          break;
        case "transfer-encoding":
          if (encoding !== undefined) throw new Error("an answer has two encodings");
          encoding = value.toLowerCase();
          break;
        case "content-type":
          contentType = value;
          break;
        case "connection":
          if (value.toLowerCase() === "close") this.reusable = false;
      }
    }
    // An interim answer: the real one follows.
    if (status[0] === "1") return;
    this.#state = this.#bodyOf(status, length, encoding);
    this.#handler.onHead(Number(status), contentType);
  }

  #bodyOf(
    status: string,
    length: string | undefined,
    encoding: string | undefined,
  ): "counted" | "size" | "to-close" | "done" {
    if (encoding !== undefined && length !== undefined) throw new Error("an answer has both a length and an encoding");
    if (status === "204" || status === "304") return "done";
    if (encoding !== undefined) {
      if (encoding !== "chunked") throw new Error("the only transfer encoding is chunked");
      return "size";
    }
    if (length === undefined) {
      this.reusable = false;
      return "to-close";
    }
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
