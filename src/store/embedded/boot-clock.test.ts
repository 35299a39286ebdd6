import { describe, expect, test } from "vitest";
import { elapsedMs, systemBootClock } from "./boot-clock.ts";

describe("time since an instant", () => {
  const then = { bootId: "a", bootMs: 1000, wallMs: 50_000 };
  test.each([
    { name: "is the boot clock's within one boot", now: { bootId: "a", bootMs: 1700, wallMs: 99_000 }, want: 700 },
    {
      name: "does not follow a wall clock that was set back",
      now: { bootId: "a", bootMs: 1700, wallMs: 1 },
      want: 700,
    },
    { name: "is the wall clock's across boots", now: { bootId: "b", bootMs: 5000, wallMs: 50_300 }, want: 300 },
    { name: "is never negative", now: { bootId: "b", bootMs: 5000, wallMs: 40_000 }, want: 0 },
    {
      name: "is the wall clock's when the uptime began anew",
      now: { bootId: "a", bootMs: 10, wallMs: 50_200 },
      want: 200,
    },
  ])("$name", ({ now, want }) => {
    expect(elapsedMs(then, now)).toBe(want);
  });

  test("is the wall clock's where no boot has a name", () => {
    const nameless = { ...then, bootId: "" };
    expect(elapsedMs(nameless, { bootId: "", bootMs: 9000, wallMs: 50_100 })).toBe(100);
  });
});

test("the system's boot clock goes on and keeps its id", () => {
  const clock = systemBootClock();
  const before = clock.now();
  expect(before).toBeGreaterThan(0);
  expect(clock.now()).toBeGreaterThanOrEqual(before);
  expect(systemBootClock().bootId).toBe(clock.bootId);
  if (process.platform === "linux" || process.platform === "darwin") expect(clock.bootId).toMatch(/^[0-9A-Fa-f-]{36}$/);
});
