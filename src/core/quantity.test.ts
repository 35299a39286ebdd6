import { expect, test } from "vitest";
import { parseQuantity } from "./quantity.ts";

test.each([
  [2, 2],
  ["2", 2],
  ["0.5", 0.5],
  [".5", 0.5],
  ["500m", 0.5],
  ["12Gi", 12 * 2 ** 30],
  ["1.5Gi", 1.5 * 2 ** 30],
  ["128Mi", 128 * 2 ** 20],
  ["64k", 64_000],
  ["1E", 1e18],
  ["1e3", 1000],
  ["12E2", 1200],
  ["1e-3", 0.001],
] as const)("%s is %d", (quantity, number) => {
  expect(parseQuantity(quantity)).toBe(number);
});

test.each(["", "x", "12GiB", "1.2.3"])("%o is no quantity", (quantity) => {
  expect(() => parseQuantity(quantity)).toThrow(RangeError);
});
