import fc from "fast-check";
import { expect, test } from "vitest";
import { RetryBudget } from "./retry-budget.ts";

const allowedOf = (live: number) => {
  const budget = new RetryBudget();
  return Array.from({ length: live }, () => budget.begin(live)).filter(Boolean).length;
};

test("three calls may retry, however few there are, and a fifth of many", () => {
  expect([1, 3, 10, 15, 19, 20, 24, 25, 200].map(allowedOf)).toEqual([1, 3, 3, 3, 3, 4, 4, 5, 40]);
});

test("a retry that ended makes room for another", () => {
  const budget = new RetryBudget();
  for (let i = 0; i < 3; i++) expect(budget.begin(10)).toBe(true);
  expect(budget.begin(10)).toBe(false);
  budget.ended();
  expect(budget.begin(10)).toBe(true);
  expect(budget.begin(10)).toBe(false);
});

test("whatever calls come, retry and end: no retry begins above the larger of a fifth and three", () => {
  const step = fc.oneof(fc.constant("comes"), fc.constant("retries"), fc.constant("ends"), fc.constant("ends retried"));
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
      const budget = new RetryBudget();
      let plain = 0;
      let retrying = 0;
      for (const what of steps) {
        if (what === "comes") plain++;
        else if (what === "ends" && plain > 0) plain--;
        else if (what === "ends retried" && retrying > 0) {
          retrying--;
          budget.ended();
        } else if (what === "retries" && plain > 0) {
          const live = plain + retrying;
          const room = retrying < Math.max(3, Math.floor(live / 5));
          expect(budget.begin(live)).toBe(room);
          if (!room) continue;
          plain--;
          retrying++;
        }
      }
    }),
  );
});
