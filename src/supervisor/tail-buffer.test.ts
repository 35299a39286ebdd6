import { expect, test } from "vitest";
import { TailBuffer } from "./tail-buffer.ts";

test("joins lines over chunks and characters over bytes, and keeps an unfinished last one", () => {
  const lines: string[] = [];
  const tail = new TailBuffer((line) => lines.push(line));
  for (const byte of new TextEncoder().encode("one\nzwölf\r\nlast")) tail.write(new Uint8Array([byte]));
  expect(lines).toEqual(["one", "zwölf"]);
  tail.end();
  expect(tail.lines).toEqual(["one", "zwölf", "last"]);
});

test("is bounded in lines and in their length, also without a line's end", () => {
  const tail = new TailBuffer(() => {});
  for (let i = 0; i < 200; i++) tail.write(Buffer.from(`${i}\n`));
  for (let i = 0; i < 100; i++) tail.write(Buffer.alloc(1000, "x"));
  tail.end();
  expect(tail.lines).toHaveLength(50);
  expect(tail.lines.at(-2)).toBe("199");
  expect(tail.lines.at(-1)).toHaveLength(4000);
});
