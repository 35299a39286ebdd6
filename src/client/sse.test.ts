import fc from "fast-check";
import { expect, test } from "vitest";
import { collect } from "../../test/support/collect.ts";
import { readSse, type SseItem } from "./sse.ts";

async function read(chunks: readonly Uint8Array[]): Promise<SseItem[]> {
  async function* stream() {
    yield* chunks;
  }
  return collect(readSse(stream()));
}

const text =
  ': queued 3\n\nid: 1\nevent: progress\ndata: {"ä":\ndata:  1}\r\n\r\ndata\n\nevent: none\n\nid: 2\rdata: €\r\rdata: cut';
const want: SseItem[] = [
  { kind: "comment", text: "queued 3" },
  { kind: "event", event: "progress", data: '{"ä":\n 1}', id: "1" },
  { kind: "event", event: "message", data: "", id: "1" },
  { kind: "event", event: "message", data: "€", id: "2" },
];

test("reads events, comments, several lines of data and every line end; an unfinished event is none", async () => {
  expect(await read([new TextEncoder().encode(text)])).toEqual(want);
});

test("wherever the bytes are cut, the events are the same", async () => {
  const bytes = new TextEncoder().encode(text);
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(bytes.length)), async (cuts) => {
      const at = [0, ...cuts.sort((a, b) => a - b), bytes.length];
      const chunks = at.slice(1).map((end, i) => bytes.subarray(at[i], end));
      expect(await read(chunks)).toEqual(want);
    }),
  );
});

test("an endless event ends in an error, not in all memory", async () => {
  const chunk = new TextEncoder().encode("x".repeat(2 ** 20));
  await expect(read(Array.from({ length: 17 }, () => chunk))).rejects.toThrow("above 16 MiB");
});
