import { expect, test } from "vitest";
import { Contest } from "./contest.ts";

test("what is undone again and again is put right at once a few times, and then once in ten seconds", () => {
  const contest = new Contest();
  const written: number[] = [];
  for (let now = 0; now < 60_000; now += 100) {
    if (!contest.mayWrite("a", "h", now)) continue;
    contest.wrote("a", "h", now);
    written.push(now);
  }
  expect(written.slice(0, 7)).toEqual([0, 100, 200, 300, 400, 500, 10_500]);
  expect(written.length).toBeLessThanOrEqual(6 + 6);
  expect(contest.isOn("a", "h", 60_000)).toBe(true);
  expect(contest.mayWrite("b", "h", 500)).toBe(true);
});

test("it is over after a minute without it, with another wish, and with the pool", () => {
  const contest = new Contest();
  for (let i = 0; i < 6; i++) contest.wrote("ns/apex Service", "h", i);
  expect(contest.isOn("ns/apex Service", "h", 1_000)).toBe(true);
  expect(contest.isOn("ns/apex Service", "other", 1_000)).toBe(false);
  expect(contest.mayWrite("ns/apex Service", "other", 1_000)).toBe(true);
  expect(contest.isOn("ns/apex Service", "h", 60_005)).toBe(false);
  contest.forget("ns/apex ");
  expect(contest.isOn("ns/apex Service", "h", 1_000)).toBe(false);
});
