import fc from "fast-check";
import { expect, it } from "vitest";
import { TokenText } from "./token-text.ts";

/** A tokenizer with one token per piece of bytes. */
function tokens(pieces: Uint8Array[]) {
  return (ids: number[]): string => Buffer.concat(ids.map((id) => pieces[id] ?? new Uint8Array())).toString("utf8");
}

it("gives whole characters only, and in the end the whole text, however its bytes are cut", () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom("a", "é", "漢", "😀", "\n"), maxLength: 30 }),
      fc.infiniteStream(fc.integer({ min: 1, max: 5 })),
      (text, sizes) => {
        const bytes = Buffer.from(text);
        const pieces: Buffer[] = [];
        for (let at = 0; at < bytes.length; ) {
          const size = sizes.next().value ?? 1;
          pieces.push(bytes.subarray(at, at + size));
          at += size;
        }
        const stream = new TokenText(tokens(pieces));
        let seen = "";
        for (const id of pieces.keys()) {
          seen += stream.push(id);
          expect(text.startsWith(seen)).toBe(true);
        }
        expect(seen).toBe(text);
      },
    ),
  );
});

it("lets broken bytes through after a while, so that nothing behind them is lost", () => {
  const stream = new TokenText(tokens([Buffer.from([0xff]), Buffer.from("a")]));
  let seen = "";
  for (const id of [0, 0, 0, 0, 0, 1]) seen += stream.push(id);
  expect(seen.endsWith("a")).toBe(true);
});

it("drops a character that never became whole", () => {
  const stream = new TokenText(tokens([Buffer.from("ab"), Buffer.from([0xf0, 0x9f])]));
  expect(stream.push(0) + stream.push(1)).toBe("ab");
});
