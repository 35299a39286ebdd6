import { describe, expect, test } from "vitest";
import type { LLMPoolStatus } from "../src/api/llmpool.ts";
import type { Condition } from "./conditions.ts";
import { StatusPace } from "./status-pace.ts";

type Told = Partial<Record<string, string>>;

/** A status with these conditions, as `True Ready`. */
function status(told: Told, readyInstances = 0, observedGeneration = 1): LLMPoolStatus {
  const conditions = Object.entries(told).map(([type, text = ""]) => {
    const [judged, reason = ""] = text.split(" ");
    return { type, status: judged as Condition["status"], reason, message: "", lastTransitionTime: "" };
  });
  return { observedGeneration, readyInstances, conditions };
}

const LOADING = { Ready: "False Loading", Reconciling: "True Loading" };
const READY = { Ready: "True Ready" };

/** Writes whatever may be written at each second, from 0 on; returns when it was. */
function written(seconds: LLMPoolStatus[]): number[] {
  const pace = new StatusPace();
  let stored: LLMPoolStatus | undefined;
  return seconds.flatMap((next, second) => {
    if (stored === next || pace.wait("a", stored, next, second * 1000) > 0) return [];
    pace.wrote("a", stored, next, second * 1000);
    stored = next;
    return [second];
  });
}

/** One more instance ready each second, for so long. */
const starting = (seconds: number, from = 0) =>
  Array.from({ length: seconds }, (_, n) =>
    status({ ...LOADING, ...(n > 3 && { Ready: "False Degraded" }) }, from + n),
  );

describe("a start", () => {
  test("of seconds is told in two writes to four, and its end at once", () => {
    expect(written([...starting(4), status(READY, 4)])).toEqual([0, 4]);
    expect(written([...starting(30), status(READY, 30)])).toEqual([0, 5, 30]);
    expect(written([...starting(60), status(READY, 60)])).toEqual([0, 5, 35, 60]);
  });

  test("of minutes is told twice a minute", () => {
    expect(written(starting(100))).toEqual([0, 5, 35, 65, 95]);
  });
});

test.each<{ name: string; from: Told; to: Told; generation?: number }>([
  { name: "is ready no longer", from: READY, to: { Ready: "False Degraded" } },
  { name: "waits for a person", from: LOADING, to: { Ready: "False Loading", Stalled: "True Failed" } },
  {
    name: "cannot be placed",
    from: { ...LOADING, Schedulable: "Unknown Pending" },
    to: { ...LOADING, Schedulable: "False Unschedulable" },
  },
  { name: "failed to be applied", from: LOADING, to: { ...LOADING, Ready: "False ApplyFailed" } },
  { name: "has come to rest", from: { ...READY, Reconciling: "True RollingOut" }, to: READY },
  { name: "was edited", from: READY, to: READY, generation: 2 },
])("a pool that $name is told at once", ({ from, to, generation = 1 }) => {
  const before = Array.from({ length: 4 }, () => status(from, 1));
  const same = before[0] as LLMPoolStatus;
  expect(written([same, same, same, status(to, 2, generation)])).toEqual([0, 3]);
  // Against a change of mere numbers, which waits.
  expect(written([same, status(from, 2)])).toEqual([0]);
});

test("after a quiet time the first change is told at once again", () => {
  const quiet = status(READY, 1);
  const changed = status(READY, 2);
  const seconds = [...starting(15), ...Array.from({ length: 70 }, () => quiet), changed];
  expect(written(seconds).at(-1)).toBe(85);
});

test("a pool that flaps is told four times at once, and then once a second", () => {
  const pace = new StatusPace();
  const [well, ill] = [status(READY, 1), status({ Ready: "False Degraded" }, 1)];
  let stored = well;
  let count = 0;
  for (let ms = 0; ms <= 10_000; ms += 100) {
    const next = (ms / 100) % 2 === 0 ? ill : well;
    if (next === stored || pace.wait("a", stored, next, ms) > 0) continue;
    pace.wrote("a", stored, next, ms);
    stored = next;
    count++;
  }
  expect(count).toBeGreaterThan(8);
  expect(count).toBeLessThanOrEqual(10 + 4);
});
