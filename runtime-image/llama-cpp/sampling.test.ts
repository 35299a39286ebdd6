import fc from "fast-check";
import { expect, it } from "vitest";
import { engineSeed } from "./sampling.ts";

it("makes a seed that the engine repeats of every whole number, and leaves small ones as they are", () => {
  fc.assert(
    fc.property(fc.maxSafeInteger(), (seed) => {
      const made = engineSeed(seed);
      expect(Number.isInteger(made) && made >= 0 && made < 0xffff_ffff).toBe(true);
      if (seed >= 0 && seed < 0xffff_ffff) expect(made).toBe(seed);
    }),
  );
  const odd = [-1, -2, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER];
  const seeds = odd.map(engineSeed);
  expect(seeds.filter((seed) => seed < 0 || seed >= 0xffff_ffff)).toEqual([]);
  expect(seeds[0]).not.toBe(seeds[1]);
});
