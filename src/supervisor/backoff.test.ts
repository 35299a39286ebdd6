import fc from "fast-check";
import { expect, test } from "vitest";
import { restartDelayMs } from "./backoff.ts";

const crash = { reason: "Signal", message: "", lasting: false } as const;

test("stays within 1 to 60 s and never shrinks as failures add up", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 10_000 }), fc.double({ min: 0, max: 1, noNaN: true }), (failures, random) => {
      const delay = restartDelayMs(failures, crash, () => random);
      expect(delay).toBeGreaterThanOrEqual(1000);
      expect(delay).toBeLessThanOrEqual(60_000);
      expect(restartDelayMs(failures + 1, crash, () => random)).toBeGreaterThanOrEqual(delay);
    }),
  );
});

test("two that died together come back apart", () => {
  expect(restartDelayMs(9, crash, () => 0.1)).not.toBe(restartDelayMs(9, crash, () => 0.9));
});
