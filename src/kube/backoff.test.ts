import fc from "fast-check";
import { expect, test } from "vitest";
import { retryMs, TokenBucket } from "./backoff.ts";

test("retries wait 5 ms at first and 1000 s at last, less up to a half", () => {
  expect([1, 2, 3, 4].map((n) => retryMs(n, () => 0))).toEqual([5, 10, 20, 40]);
  expect([1, 2, 3, 4].map((n) => retryMs(n, () => 1))).toEqual([2.5, 5, 10, 20]);
  expect(retryMs(18, () => 0)).toBe(655_360);
  expect([19, 100, 1e9].map((n) => retryMs(n, () => 0))).toEqual([1_000_000, 1_000_000, 1_000_000]);
});

test("no more tokens are due in any stretch of time than the burst and what the rate gives meanwhile", () => {
  const gaps = fc.array(fc.nat({ max: 2_000 }), { minLength: 1, maxLength: 200 });
  fc.assert(
    fc.property(gaps, fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 50 }), (gaps, rate, burst) => {
      let now = 0;
      const bucket = new TokenBucket(rate, burst, now);
      const due = gaps.map((gap) => {
        now += gap;
        return now + bucket.take(now);
      });
      for (let from = 0; from < due.length; from++) {
        for (let to = from; to < due.length; to++) {
          const seconds = ((due[to] ?? 0) - (due[from] ?? 0)) / 1000;
          expect(to - from + 1).toBeLessThanOrEqual(burst + seconds * rate + 1e-6);
        }
      }
    }),
    { numRuns: 50 },
  );
});

test("a token that is not there is not taken", () => {
  const bucket = new TokenBucket(1, 2, 0);
  expect([0, 0, 0, 999, 1000, 1000].map((now) => bucket.tryTake(now))).toEqual([true, true, false, false, true, false]);
});
