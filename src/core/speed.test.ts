import fc from "fast-check";
import { expect, test } from "vitest";
import { Speed } from "./speed.ts";

const sample = { promptTokens: 0, cachedTokens: 0, completionTokens: 0, firstTokenMs: 0, totalMs: 0 };

test("estimates nothing before something was measured", () => {
  const speed = new Speed();
  expect([speed.prefillMs(1000), speed.serviceMs, speed.prefillTokensPerSecond, speed.decodeTokensPerSecond]).toEqual([
    0, 0, 0, 0,
  ]);
});

test("measures prefill on the tokens that were not cached, decode on those after the first", () => {
  const speed = new Speed();
  speed.observe({ promptTokens: 1000, cachedTokens: 800, completionTokens: 11, firstTokenMs: 400, totalMs: 900 });
  expect(speed.prefillTokensPerSecond).toBeCloseTo(500);
  expect(speed.decodeTokensPerSecond).toBeCloseTo(20);
  expect(speed.prefillMs(100)).toBeCloseTo(200);
});

test("a warm turn of a few new tokens does not change the prefill speed", () => {
  const speed = new Speed();
  speed.observe({ ...sample, promptTokens: 1000, firstTokenMs: 1000, totalMs: 1000 });
  speed.observe({ ...sample, promptTokens: 1007, cachedTokens: 1000, firstTokenMs: 70, totalMs: 70 });
  expect(speed.prefillTokensPerSecond).toBeCloseTo(1000);
});

test("follows a lasting change and stays between the extremes that were measured", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 1, maxLength: 50 }), (times) => {
      const speed = new Speed();
      for (const ms of times) {
        speed.observe({ ...sample, promptTokens: 100, firstTokenMs: ms, totalMs: ms });
        speed.observeService(ms);
      }
      const slowest = Math.max(...times);
      const fastest = Math.min(...times);
      expect(speed.prefillMs(100)).toBeGreaterThan(fastest - 1e-6);
      expect(speed.prefillMs(100)).toBeLessThan(slowest + 1e-6);
      expect(speed.serviceMs).toBeGreaterThan(fastest - 1e-6);
      expect(speed.serviceMs).toBeLessThan(slowest + 1e-6);
    }),
  );
  const speed = new Speed();
  for (let i = 0; i < 100; i++) speed.observeService(10);
  for (let i = 0; i < 60; i++) speed.observeService(1000);
  expect(speed.serviceMs).toBeGreaterThan(990);
});

test("ignores samples that are no measurement", () => {
  const speed = new Speed();
  speed.observe({ ...sample, promptTokens: 100, firstTokenMs: 0, completionTokens: 5, totalMs: Number.NaN });
  speed.observeService(Number.NaN);
  expect([speed.prefillMs(100), speed.decodeTokensPerSecond, speed.serviceMs]).toEqual([0, 0, 0]);
});
