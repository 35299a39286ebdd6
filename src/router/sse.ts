import { USAGE_COMMENT } from "../api/instance.ts";

/** What the router does with one frame of an instance's stream. Content is the common case and goes on as the bytes that came. */
export type Frame =
  | { kind: "content"; bytes: Buffer }
  | { kind: "comment"; bytes: Buffer }
  | { kind: "usage"; json: string }
  | { kind: "error"; bytes: Buffer }
  | { kind: "done"; bytes: Buffer };

const USAGE = Buffer.from(USAGE_COMMENT);
const ERROR = Buffer.from('data: {"error"');
const DONE = Buffer.from("data: [DONE]");
const COLON = 0x3a;
const NEWLINE = 0x0a;

/** Longest frame an instance may send, in bytes: a bound on memory, far above any token. */
const MAX_FRAME_BYTES = 4 * 1024 * 1024;

/** Cuts a stream of bytes into SSE frames (each with its closing blank line) without decoding what only passes through. */
export class FrameSplitter {
  #rest: Buffer | undefined;

  /** The frames that are complete with this chunk. Throws when a frame grows beyond the limit. */
  push(chunk: Buffer): Frame[] {
    const data = this.#rest ? Buffer.concat([this.#rest, chunk]) : chunk;
    const frames: Frame[] = [];
    let from = 0;
    // The blank line can lie across the seam, but never before the last byte of the rest.
    let search = this.#rest ? Math.max(0, this.#rest.length - 1) : 0;
    for (;;) {
      const newline = data.indexOf(NEWLINE, search);
      if (newline < 0 || newline + 1 >= data.length) break;
      if (data[newline + 1] !== NEWLINE) {
        search = newline + 1;
        continue;
      }
      frames.push(classify(data.subarray(from, newline + 2)));
      from = newline + 2;
      search = from;
    }
    this.#rest = from < data.length ? data.subarray(from) : undefined;
    if (this.#rest && this.#rest.length > MAX_FRAME_BYTES) throw new Error("an instance sent a frame above 4 MiB");
    return frames;
  }
}

function classify(bytes: Buffer): Frame {
  if (bytes[0] === COLON) {
    if (!startsWith(bytes, USAGE)) return { kind: "comment", bytes };
    return { kind: "usage", json: bytes.toString("utf8", USAGE.length).trim() };
  }
  if (startsWith(bytes, ERROR)) return { kind: "error", bytes };
  if (startsWith(bytes, DONE)) return { kind: "done", bytes };
  return { kind: "content", bytes };
}

function startsWith(bytes: Buffer, prefix: Buffer): boolean {
  return bytes.length >= prefix.length && bytes.compare(prefix, 0, prefix.length, 0, prefix.length) === 0;
}
