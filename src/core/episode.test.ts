import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  end,
  endingOf,
  expire,
  forgetAt,
  type Life,
  type Limits,
  recordProgress,
  shift,
  startLife,
  touch,
} from "./episode.ts";

const LIMITS: Limits = {
  timeoutSeconds: 100,
  progressExtendSeconds: 10,
  maxTimeoutSeconds: 125,
  idleTimeoutSeconds: 0,
  retainSeconds: 60,
};

describe("progress", () => {
  test.each([
    { name: "before the window changes nothing", at: [89_999], want: 100_000 },
    { name: "at the first instant of the window extends", at: [90_000], want: 110_000 },
    { name: "at the last instant before the deadline extends", at: [99_999], want: 110_000 },
    { name: "twice in one window extends once", at: [90_000, 99_999], want: 110_000 },
    { name: "in the next window extends again", at: [95_000, 105_000], want: 120_000 },
    { name: "never passes start + max", at: [95_000, 105_000, 115_000], want: 125_000 },
    { name: "near start + max changes nothing more", at: [95_000, 105_000, 115_000, 124_000], want: 125_000 },
  ])("$name", ({ at, want }) => {
    const life = startLife(LIMITS, 0);
    for (const now of at) recordProgress(life, LIMITS, now);
    expect(life.deadline).toBe(want);
  });

  test("counts only what moved the deadline as an extension", () => {
    const life = startLife(LIMITS, 0);
    const moved = [50_000, 95_000, 96_000, 105_000, 118_000, 124_000].map((now) => recordProgress(life, LIMITS, now));
    expect(moved).toEqual([false, true, false, true, true, false]);
    expect(life.extensions).toBe(3);
  });
});

describe("end", () => {
  test("is at the deadline, not before", () => {
    const life = startLife(LIMITS, 0);
    expect(expire(life, LIMITS, 99_999)).toBe(false);
    expect(expire(life, LIMITS, 100_000)).toBe(true);
    expect(life.ended).toEqual({ reason: "deadline", at: 100_000 });
  });

  test("is dated when it was due, however late anybody looks", () => {
    const life = startLife(LIMITS, 0);
    expire(life, LIMITS, 5_000_000);
    expect(life.ended?.at).toBe(100_000);
    expect(forgetAt(life, LIMITS)).toBe(160_000);
  });

  test("is max_deadline when no progress could have moved it", () => {
    const life = startLife(LIMITS, 0);
    for (const now of [95_000, 105_000, 115_000]) recordProgress(life, LIMITS, now);
    expect(endingOf(life, LIMITS)).toEqual({ at: 125_000, reason: "max_deadline" });
    expect(endingOf(startLife({ ...LIMITS, maxTimeoutSeconds: 40 }, 0), LIMITS)).toMatchObject({ at: 40_000 });
  });

  test("happens once: the first reason stays", () => {
    const life = startLife(LIMITS, 0);
    expect(end(life, "finished", 5)).toBe(true);
    expect(end(life, "cancelled", 6)).toBe(false);
    expect(expire(life, LIMITS, 1e9)).toBe(false);
    expect(recordProgress(life, LIMITS, 99_000)).toBe(false);
    expect(life.ended).toEqual({ reason: "finished", at: 5 });
  });

  test("is idle when nothing happens and nothing runs", () => {
    const limits = { ...LIMITS, idleTimeoutSeconds: 20 };
    const life = startLife(limits, 0);
    touch(life, 15_000);
    expect(endingOf(life, limits)).toEqual({ at: 35_000, reason: "idle" });
    life.running = 1;
    expect(endingOf(life, limits)).toEqual({ at: 100_000, reason: "deadline" });
  });

  test("is the deadline's when idleness comes at the same instant", () => {
    const limits = { ...LIMITS, idleTimeoutSeconds: 20 };
    const life = startLife(limits, 0);
    touch(life, 80_000);
    expect(endingOf(life, limits).reason).toBe("deadline");
  });
});

const settings = fc
  .record({
    timeoutSeconds: fc.integer({ min: 1, max: 60 }),
    progressExtendSeconds: fc.integer({ min: 0, max: 40 }),
    more: fc.integer({ min: 0, max: 60 }),
    idleTimeoutSeconds: fc.constantFrom(0, 0, 5, 30),
  })
  .map(({ more, ...s }): Limits => ({ ...s, maxTimeoutSeconds: s.timeoutSeconds + more, retainSeconds: 60 }));

class World {
  now = 0;
  looks: number[] = [];
  readonly limits: Limits;
  readonly life: Life;
  constructor(limits: Limits) {
    this.limits = limits;
    this.life = startLife(limits, 0);
  }
}

/** The rules told another way, from the list of what happened. */
interface Model {
  deadline: number;
  activeAt: number;
  running: number;
  ended: string | undefined;
}

type Step = { wait: number; op: "progress" | "request" | "settle" | "heartbeat" | "look" | "finish" };
const step = fc.record({
  wait: fc.integer({ min: 0, max: 12_000 }),
  op: fc.constantFrom<Step["op"]>(
    "progress",
    "progress",
    "progress",
    "request",
    "settle",
    "heartbeat",
    "look",
    "finish",
  ),
});

function run(limits: Limits, steps: Step[], looksEveryMs: number | undefined): World {
  const world = new World(limits);
  const { life } = world;
  const startMax = limits.maxTimeoutSeconds * 1000;
  const model: Model = { deadline: limits.timeoutSeconds * 1000, activeAt: 0, running: 0, ended: undefined };
  for (const { wait, op } of steps) {
    const until = world.now + wait;
    if (looksEveryMs) for (let t = world.now; t < until; t += looksEveryMs) expire(life, limits, t);
    world.now = until;
    const { now } = world;
    const before = life.deadline;
    expire(life, limits, now);
    // The model: at most one limit can have come since the last step, the nearer one.
    const idleAt =
      limits.idleTimeoutSeconds && model.running === 0
        ? model.activeAt + limits.idleTimeoutSeconds * 1000
        : Number.POSITIVE_INFINITY;
    if (model.ended === undefined && Math.min(idleAt, model.deadline) <= now) {
      model.ended = idleAt < model.deadline ? "idle" : model.deadline === startMax ? "max_deadline" : "deadline";
    }
    expect(reasonOf(life)).toBe(model.ended);
    if (life.ended) break;
    if (op === "progress") {
      recordProgress(life, limits, now);
      model.activeAt = now;
      const left = model.deadline - now;
      if (left <= limits.progressExtendSeconds * 1000) {
        model.deadline = Math.min(startMax, model.deadline + limits.progressExtendSeconds * 1000);
      }
    } else if (op === "request" || (op === "settle" && model.running > 0)) {
      const by = op === "request" ? 1 : -1;
      life.running += by;
      model.running += by;
      touch(life, now);
      model.activeAt = now;
    } else if (op === "finish") {
      end(life, "finished", now);
      model.ended = "finished";
    }
    // A heartbeat, or somebody looking, is nothing.
    expect(life.deadline).toBe(model.deadline);
    expect(life.deadline, "shortened").toBeGreaterThanOrEqual(before);
    expect(life.deadline, "past start + max").toBeLessThanOrEqual(startMax);
    expect(reasonOf(life)).toBe(model.ended);
  }
  return world;
}

function reasonOf(life: Life): string | undefined {
  return life.ended?.reason;
}

describe("whatever happens", () => {
  test("the deadline follows the rules, is never shortened and never past start + max", () => {
    fc.assert(
      fc.property(settings, fc.array(step, { maxLength: 60 }), (limits, steps) => void run(limits, steps, undefined)),
      {
        numRuns: 500,
      },
    );
  });

  test("it does not matter how often anybody looks", () => {
    fc.assert(
      fc.property(settings, fc.array(step, { maxLength: 40 }), (limits, steps) => {
        expect(run(limits, steps, 500).life).toEqual(run(limits, steps, undefined).life);
      }),
    );
  });

  test("reports at one instant do the same in any order and number", () => {
    fc.assert(
      fc.property(settings, fc.array(step, { maxLength: 30 }), (limits, steps) => {
        const again = steps.flatMap((s) => (s.op === "progress" ? [s, { ...s, wait: 0 }] : [s]));
        expect(run(limits, again, undefined).life).toEqual(run(limits, steps, undefined).life);
      }),
    );
  });

  test("a shifted scale changes nothing", () => {
    fc.assert(
      fc.property(
        settings,
        fc.array(step, { maxLength: 30 }),
        fc.integer({ min: -1e9, max: 1e9 }),
        (limits, steps, ms) => {
          const { life, now } = run(limits, steps, undefined);
          const moved = shift(life, ms);
          expect(endingOf(moved, limits).at - ms).toBe(endingOf(life, limits).at);
          expect(endingOf(moved, limits).reason).toBe(endingOf(life, limits).reason);
          expire(life, limits, now + 1e6);
          expire(moved, limits, now + 1e6 + ms);
          expect(shift(moved, -ms)).toEqual(life);
        },
      ),
    );
  });
});
