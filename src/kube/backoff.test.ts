import fc from "fast-check";
import { expect, test } from "vitest";
import { retryMs, TokenBucket } from "./backoff.ts";

test("retries wait 5 ms at first and five minutes at last, less up to a half", () => {
  expect([1, 2, 3, 4].map((n) => retryMs(n, () => 0))).toEqual([5, 10, 20, 40]);
  expect([1, 2, 3, 4].map((n) => retryMs(n, () => 1))).toEqual([2.5, 5, 10, 20]);
  expect(retryMs(16, () => 0)).toBe(163_840);
  expect([17, 100, 1e9].map((n) => retryMs(n, () => 0))).toEqual([300_000, 300_000, 300_000]);
});

test("no more tokens are due in any stretch of time than the burst and what the rate gives meanwhile", () => {
  // Long rests between crowds.
  const gap = fc.oneof(
    { weight: 20, arbitrary: fc.nat({ max: 3 }) },
    { weight: 1, arbitrary: fc.nat({ max: 60_000 }) },
  );
  const gaps = fc.array(gap, { minLength: 1, maxLength: 200, size: "max" });
  fc.assert(
    fc.property(gaps, fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 50 }), (gaps, rate, burst) => {
      let now = 0;
      const bucket = new TokenBucket(rate, burst, now);
      const due = gaps.map((gap) => {
        now += gap;
        return now + bucket.take(now);
      });
      let most = Number.NEGATIVE_INFINITY;
      for (const [from, start] of due.entries())
        for (const [to, end] of due.entries())
          if (to >= from) most = Math.max(most, to - from + 1 - ((end - start) / 1000) * rate);
      expect(most).toBeLessThanOrEqual(burst + 1e-6);
    }),
    { numRuns: 50 },
  );
});

test("a token that is not there is not taken", () => {
  const bucket = new TokenBucket(1, 2, 0);
  expect([0, 0, 0, 999, 1000, 1000].map((now) => bucket.tryTake(now))).toEqual([true, true, false, false, true, false]);
});
