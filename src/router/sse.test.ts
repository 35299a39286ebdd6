import fc from "fast-check";
import { expect, test } from "vitest";
import { type Frame, FrameSplitter } from "./sse.ts";

const STREAM = [
  'data: {"choices":[{"delta":{"content":"é\\n\\n"}}]}\n\n',
  ": prefill\n\n",
  "data: x\n\n",
  ': usage {"prompt_tokens":3}\n\n',
  'data: {"error":{"code":"upstream_error"}}\n\n',
  "data: [DONE]\n\n",
];

function split(chunks: Buffer[]): Frame[] {
  const splitter = new FrameSplitter();
  return chunks.flatMap((chunk) => splitter.push(chunk));
}

test("tells content, comments, usage, errors and the end apart", () => {
  const frames = split([Buffer.from(STREAM.join(""))]);
  expect(frames.map((f) => f.kind)).toEqual(["content", "comment", "content", "usage", "error", "done"]);
  expect(frames[3]).toEqual({ kind: "usage", json: '{"prompt_tokens":3}' });
});

test("finds the same frames wherever the stream is cut", () => {
  const bytes = Buffer.from(STREAM.join(""));
  const whole = split([bytes]);
  fc.assert(
    fc.property(fc.array(fc.nat(bytes.length), { maxLength: 20 }), (cuts) => {
      const at = [0, ...cuts.sort((a, b) => a - b), bytes.length];
      const chunks = at.slice(1).map((end, i) => bytes.subarray(at[i] ?? 0, end));
      expect(split(chunks)).toEqual(whole);
    }),
  );
});

test("keeps an unfinished frame to itself", () => {
  expect(split([Buffer.from("data: half\n")])).toEqual([]);
});

test("refuses a frame without end", () => {
  const splitter = new FrameSplitter();
  expect(() => {
    for (let i = 0; i < 6; i++) splitter.push(Buffer.alloc(1024 * 1024, "a"));
  }).toThrow("4 MiB");
});
