import { expect, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { MemoryWatchdog, measureMemory, parsePs } from "./watchdog.ts";

const settle = () => new Promise<void>((resolve) => setImmediate(resolve));

test("tells once who is over its own limit, leaves the others, and rests when nobody is watched", async () => {
  const clock = new FakeClock();
  const sizes = new Map([
    [1, 50],
    [2, 50],
  ]);
  let looks = 0;
  const watchdog = new MemoryWatchdog(clock, async (pids) => {
    looks += 1;
    return new Map([...sizes].filter(([pid]) => pids.includes(pid)));
  });
  const over: number[] = [];
  watchdog.watch(1, 100, () => over.push(1));
  const unwatch = watchdog.watch(2, 100, () => over.push(2));
  const tick = async () => {
    clock.advance(250);
    await settle();
  };
  await tick();
  sizes.set(1, 101);
  await tick();
  await tick();
  expect({ over, looks }).toEqual({ over: [1], looks: 3 });
  unwatch();
  await tick();
  const before = looks;
  await tick();
  expect(looks).toBe(before);
});

test("a failed measurement is no verdict, and the watch goes on", async () => {
  const clock = new FakeClock();
  let fail = true;
  const watchdog = new MemoryWatchdog(clock, async () => {
    if (fail) throw new Error("no ps");
    return new Map([[1, 2]]);
  });
  let over = 0;
  watchdog.watch(1, 1, () => over++);
  clock.advance(250);
  await settle();
  expect(over).toBe(0);
  fail = false;
  clock.advance(250);
  await settle();
  expect(over).toBe(1);
});

test("measures this very process, and leaves out one that is gone", async () => {
  const sizes = await measureMemory([process.pid, 2 ** 22 + 1]);
  expect([...sizes.keys()]).toEqual([process.pid]);
  expect(sizes.get(process.pid)).toBeGreaterThan(10 * 2 ** 20);
});

test("reads what ps prints on a Mac", () => {
  expect(parsePs("  501  10240\n 77123 2048\n")).toEqual(
    new Map([
      [501, 10_485_760],
      [77123, 2_097_152],
    ]),
  );
});
