import fc from "fast-check";
import { expect, it } from "vitest";
import { ChunkSizer } from "./chunk-sizer.ts";

it("settles at chunks of at most 200 ms, and at half of that while others decode, whatever the machine", () => {
  fc.assert(
    fc.property(
      fc.double({ min: 0, max: 60, noNaN: true }),
      fc.double({ min: 0.01, max: 40, noNaN: true }),
      fc.boolean(),
      (fixedMs, tokenMs, shared) => {
        const sizer = new ChunkSizer(512);
        for (let i = 0; i < 50; i++) {
          const size = sizer.next(shared);
          sizer.record(size, fixedMs + size * tokenMs);
        }
        const size = sizer.next(shared);
        expect(size).toBeGreaterThanOrEqual(1);
        expect(size).toBeLessThanOrEqual(512);
        if (size > 1) expect(fixedMs + size * tokenMs).toBeLessThanOrEqual(shared ? 100 : 200);
      },
    ),
  );
});

it("grows to the batch on a fast device", () => {
  const sizer = new ChunkSizer(512);
  for (let i = 0; i < 50; i++) {
    const size = sizer.next(false);
    sizer.record(size, 2 + size * 0.05);
  }
  expect(sizer.next(false)).toBe(512);
});
