import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AnswerParser } from "./http-answer.ts";

interface Seen {
  status: number;
  contentType: string;
  body: string;
  done: boolean;
  reusable: boolean;
}

/** What the parser makes of these pieces, and of a close after them. */
function read(pieces: readonly (string | Buffer)[], close = false): Seen {
  const seen: Seen = { status: 0, contentType: "", body: "", done: false, reusable: true };
  const parser = new AnswerParser({
    onHead: (status, headers) => Object.assign(seen, { status, contentType: headers["content-type"] ?? "" }),
    onBody: (bytes) => {
      seen.body += bytes.toString("latin1");
    },
  });
  for (const piece of pieces) seen.done = parser.push(Buffer.from(piece as string, "latin1"));
  if (close) seen.done = parser.end();
  return { ...seen, reusable: parser.reusable };
}

const OK = "HTTP/1.1 200 OK\r\n";
const bodies = fc.array(fc.string({ minLength: 1, maxLength: 40, unit: "binary-ascii" }), { maxLength: 6 });
const counted = (body: string) => `${OK}Content-Type: a/b\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
const chunked = (chunks: string[]) =>
  `${OK}content-type: a/b\r\nTransfer-Encoding: Chunked\r\n\r\n${chunks.map((c) => `${c.length.toString(16)};x=y\r\n${c}\r\n`).join("")}0\r\nx-t: 1\r\n\r\n`;

test("an answer is the same however the network cuts it", () => {
  fc.assert(
    fc.property(bodies, fc.boolean(), fc.array(fc.nat(400)), (chunks, inChunks, cuts) => {
      const body = chunks.join("");
      const bytes = inChunks ? chunked(chunks) : counted(body);
      const at = [0, ...cuts.map((cut) => cut % bytes.length).sort((a, b) => a - b), bytes.length];
      const pieces = at.slice(1).map((end, i) => bytes.slice(at[i], end));
      expect(read(pieces)).toEqual({ status: 200, contentType: "a/b", body, done: true, reusable: true });
    }),
  );
});

test("a complete answer followed by anything is refused, wherever the cut is", () => {
  fc.assert(
    fc.property(bodies, fc.boolean(), fc.boolean(), (chunks, inChunks, together) => {
      const bytes = inChunks ? chunked(chunks) : counted(chunks.join(""));
      expect(() => read(together ? [`${bytes}H`] : [bytes, "H"])).toThrow("after the end");
    }),
  );
});

test("without length and encoding the body ends with the connection, which then carries nothing else", () => {
  expect(read([`${OK}\r\nab`, "c"])).toMatchObject({ body: "abc", done: false });
  expect(read([`${OK}\r\nab`, "c"], true)).toMatchObject({ body: "abc", done: true, reusable: false });
});

test("a connection that closes early has not answered", () => {
  expect(read([`${OK}content-length: 3\r\n\r\nab`], true).done).toBe(false);
  expect(read([OK], true).done).toBe(false);
});

test("interim answers have heads of their own, and the real one follows", () => {
  const statuses: number[] = [];
  const places: (string | undefined)[] = [];
  const parser = new AnswerParser({
    onHead: (status, headers) => {
      statuses.push(status);
      places.push(headers["x-place"]);
    },
    onBody: () => {},
  });
  const interim = (place: number) => `HTTP/1.1 102 Processing\r\nx-place: ${place}\r\n\r\n`;
  expect(parser.push(Buffer.from(interim(3) + interim(0)))).toBe(false);
  expect(parser.push(Buffer.from(counted("hi")))).toBe(true);
  expect(statuses).toEqual([102, 102, 200]);
  expect(places).toEqual(["3", "0", undefined]);
});

test("connection: close is respected", () => {
  expect(read([`${OK}connection: Close\r\ncontent-length: 0\r\n\r\n`])).toMatchObject({ done: true, reusable: false });
});

test("a header that comes twice is one list", () => {
  let seen: Record<string, string> = {};
  const parser = new AnswerParser({ onHead: (_, headers) => Object.assign(seen, headers), onBody: () => {} });
  seen = {};
  parser.push(Buffer.from(`${OK}X-A: 1\r\nx-a:  2 \r\ncontent-length: 0\r\n\r\n`));
  expect(seen["x-a"]).toBe("1, 2");
});

describe("refuses", () => {
  test.each([
    ["another protocol", "SSH-2.0-x\r\n\r\n"],
    ["HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\n"],
    ["a status that is none", "HTTP/1.1 2000 OK\r\n\r\n"],
    ["a length and an encoding", `${OK}content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n`],
    ["two different lengths", `${OK}content-length: 1\r\ncontent-length: 2\r\n\r\n`],
    ["two encodings", `${OK}transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n`],
    ["another encoding", `${OK}transfer-encoding: gzip, chunked\r\n\r\n`],
    ["a negative length", `${OK}content-length: -1\r\n\r\n`],
    ["a length in words", `${OK}content-length: 1e3\r\n\r\n`],
    ["a header without a name", `${OK}: x\r\n\r\n`],
    ["a header without a colon", `${OK}what\r\n\r\n`],
    ["a chunk without a size", `${OK}transfer-encoding: chunked\r\n\r\n\r\n`],
    ["a chunk size that is no number", `${OK}transfer-encoding: chunked\r\n\r\n-1\r\n`],
    ["a chunk that goes on", `${OK}transfer-encoding: chunked\r\n\r\n1\r\nab\r\n`],
    ["a head without end", `${OK}x: ${"y".repeat(20_000)}`],
  ])("%s", (_, bytes) => {
    expect(() => read([bytes])).toThrow(Error);
    expect(() => read([...bytes])).toThrow(Error);
  });
});
