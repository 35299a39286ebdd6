import { expect, test } from "vitest";
import { FakeClock } from "../../../test/support/fake-clock.ts";
import type { Clock } from "../../lib/clock.ts";
import { Wakeups } from "./wakeups.ts";

function setup() {
  const clock = new FakeClock();
  const armed: number[] = [];
  const counting: Clock = {
    now: clock.now,
    wall: clock.wall,
    after(ms, run) {
      armed.push(ms);
      return clock.after(ms, run);
    },
  };
  const woken: [number, string][] = [];
  const wakeups = new Wakeups<string>(counting, (item) => woken.push([clock.now(), item]));
  return { clock, armed, woken, wakeups };
}

test("wakes everything at its own instant", () => {
  const { clock, woken, wakeups } = setup();
  for (const [at, item] of [
    [30, "c"],
    [10, "a"],
    [20, "b"],
  ] as const)
    wakeups.at(at, item);
  clock.advance(100);
  expect(woken).toEqual([
    [10, "a"],
    [20, "b"],
    [30, "c"],
  ]);
});

test("10,000 items cost one timer at a time", () => {
  const { clock, armed, woken, wakeups } = setup();
  for (let i = 0; i < 10_000; i++) wakeups.at(1000 + i, "x");
  expect(armed).toHaveLength(1);
  clock.advance(999);
  expect(woken).toHaveLength(0);
  clock.advance(1);
  expect(woken).toHaveLength(1);
  expect(armed).toHaveLength(2);
});

test("one that is added while others are woken is woken too; after close, none", () => {
  const { clock, wakeups, woken } = setup();
  wakeups.at(10, "a");
  clock.after(10, () => wakeups.at(5, "late"));
  clock.advance(10);
  expect(woken.map(([, item]) => item)).toEqual(["a", "late"]);
  wakeups.at(20, "b");
  wakeups.close();
  clock.advance(100);
  expect(woken).toHaveLength(2);
});
