import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type Bucket,
  chargeOf,
  chargesOf,
  type Limit,
  leftOf,
  makeBucket,
  openWindow,
  reserve,
  resetSeconds,
  restore,
  settle,
} from "./budget.ts";

const T0 = Date.UTC(2026, 0, 1);
const deny = { worstCase: 0, minimum: 0, clamp: false };

function bucket(spent: number, reserved: number): Bucket {
  return { ...makeBucket(0), spent, reserved };
}

describe("reserve", () => {
  test("reserves in all buckets or in none, and names the limit that leaves least", () => {
    const wide = { bucket: bucket(0, 0), limit: 1000 };
    const narrow = { bucket: bucket(50, 20), limit: 100 };
    expect(reserve([wide, narrow], { ...deny, worstCase: 31 }, T0)).toEqual({ ok: false, limit: narrow });
    expect([wide.bucket.reserved, narrow.bucket.reserved]).toEqual([0, 20]);
    expect(reserve([wide, narrow], { ...deny, worstCase: 30 }, T0)).toEqual({ ok: true, tokens: 30 });
    expect([wide.bucket.reserved, narrow.bucket.reserved]).toEqual([30, 50]);
  });

  test.each([
    { name: "takes what is left", left: 50, minimum: 10, want: 50 },
    { name: "takes no more than asked", left: 500, minimum: 10, want: 100 },
    { name: "takes the last token", left: 10, minimum: 10, want: 10 },
    { name: "denies less than the minimum", left: 9, minimum: 10, want: undefined },
    { name: "denies when nothing is left", left: 0, minimum: 10, want: undefined },
  ])("with clamp: $name", ({ left, minimum, want }) => {
    const limit = { bucket: bucket(0, 0), limit: left || 1 };
    if (left === 0) limit.bucket.spent = 1;
    const result = reserve([limit], { worstCase: 100, minimum, clamp: true }, T0);
    expect(result).toEqual(want === undefined ? { ok: false, limit } : { ok: true, tokens: want });
  });

  test("a limit of 0 counts and never denies", () => {
    const counted = { bucket: bucket(1e9, 0), limit: 0 };
    expect(reserve([counted], { ...deny, worstCase: 7 }, T0)).toEqual({ ok: true, tokens: 7 });
    expect(counted.bucket.reserved).toBe(7);
  });

  test("denies a size that is no number", () => {
    const limit = { bucket: bucket(0, 0), limit: 100 };
    expect(reserve([limit], { ...deny, worstCase: Number.NaN }, T0).ok).toBe(false);
    expect(limit.bucket.reserved).toBe(0);
  });
});

describe("windows", () => {
  test("begin at multiples of their length since the epoch", () => {
    const day = makeBucket(86_400);
    openWindow(day, T0 + 3_600_000);
    day.spent = 5;
    openWindow(day, T0 + 86_399_999);
    expect(day.spent).toBe(5);
    expect(resetSeconds(day, T0 + 86_399_000)).toBe(1);
    openWindow(day, T0 + 86_400_000);
    expect(day.spent).toBe(0);
    expect(resetSeconds(makeBucket(0), T0)).toBeUndefined();
  });

  test("once left, never open again, however the clock steps", () => {
    const steps = fc.array(fc.integer({ min: -5, max: 5 }), { maxLength: 40 });
    fc.assert(
      fc.property(steps, (steps) => {
        const hour = makeBucket(3600);
        const spentIn = new Map<number, number>();
        let wall = T0;
        for (const step of steps) {
          wall += step * 1_200_000;
          const before = hour.window;
          const result = reserve([{ bucket: hour, limit: 10 }], { ...deny, worstCase: 4 }, wall);
          expect(hour.window).toBeGreaterThanOrEqual(before);
          if (!result.ok) continue;
          spentIn.set(hour.window, (spentIn.get(hour.window) ?? 0) + 4);
          settle(chargesOf([{ bucket: hour, limit: 10 }]), 4, 4);
        }
        for (const spent of spentIn.values()) expect(spent).toBeLessThanOrEqual(10);
      }),
    );
  });

  test("a request is charged to the window that admitted it", () => {
    const hour = makeBucket(3600);
    const limit = { bucket: hour, limit: 10 };
    reserve([limit], { ...deny, worstCase: 10 }, T0);
    const charges = chargesOf([limit]);
    expect(reserve([limit], { ...deny, worstCase: 10 }, T0 + 3_600_000)).toEqual({ ok: true, tokens: 10 });
    settle(charges, 10, 8);
    expect(hour).toMatchObject({ spent: 0, reserved: 10 });
  });
});

test("reservations of a window that was open at a crash open it again, in whatever order they come back", () => {
  for (const order of [
    [5, 7, 6],
    [7, 6, 5],
    [6, 7, 7],
  ]) {
    const hour = { ...makeBucket(3600), window: 5, spent: 9 };
    for (const window of order) restore([{ bucket: hour, window }], 10);
    expect(hour).toEqual({
      windowSeconds: 3600,
      window: 7,
      spent: 0,
      reserved: order.filter((w) => w === 7).length * 10,
    });
  }
});

test.each([
  { name: "prompt and completion, cached included", usage: [30, 12, 25], want: { used: 42, overrun: false } },
  { name: "all that was reserved", usage: [90, 10, 0], want: { used: 100, overrun: false } },
  { name: "more than was reserved, in full", usage: [90, 11, 0], want: { used: 101, overrun: true } },
  { name: "the reservation for a count that is none", usage: [Number.NaN, 1, 0], want: { used: 100, overrun: true } },
  { name: "the reservation for a negative count", usage: [-50, 60, 0], want: { used: 100, overrun: true } },
])("charges $name", ({ usage: [promptTokens = 0, completionTokens = 0, cachedTokens = 0], want }) => {
  expect(chargeOf({ promptTokens, completionTokens, cachedTokens }, 100)).toEqual(want);
  expect(chargeOf(null, 100)).toEqual({ used: 0, overrun: false });
});

/** What a store keeps on disk: all that a crash leaves. */
interface Disk {
  buckets: { windowSeconds: number; window: number; spent: number }[];
  open: { tokens: number; charges: [bucket: number, window: number][] }[];
}

const LIMITS = [100, 60, 0];
const WINDOWS = [0, 60, 0];

const op = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant("admit" as const),
      of: fc.subarray([0, 1, 2], { minLength: 1 }),
      worstCase: fc.integer({ min: 1, max: 40 }),
      clamp: fc.boolean(),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      op: fc.constant("settle" as const),
      which: fc.nat(),
      share: fc.double({ min: 0, max: 1, noNaN: true }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ op: fc.constant("clock" as const), seconds: fc.integer({ min: -90, max: 90 }) }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("crash" as const) }) },
);

test("spent plus reserved never passes a limit, and the sums are right, in any order of admissions, settlements, clock steps and crashes", () => {
  fc.assert(
    fc.property(fc.array(op, { maxLength: 80 }), (ops) => {
      let buckets = WINDOWS.map(makeBucket);
      let open: { tokens: number; charges: { bucket: Bucket; window: number }[] }[] = [];
      let wall = T0;
      // The oracle: what was used and is held, per bucket and window.
      const book = new Map<string, { used: number; held: number }>();
      const page = (index: number, window: number) => {
        const key = `${index}:${window}`;
        const found = book.get(key) ?? { used: 0, held: 0 };
        book.set(key, found);
        return found;
      };
      for (const o of ops) {
        if (o.op === "clock") wall += o.seconds * 1000;
        else if (o.op === "admit") {
          const limits: Limit[] = o.of.flatMap((i) => {
            const found = buckets[i];
            return found ? [{ bucket: found, limit: LIMITS[i] ?? 0 }] : [];
          });
          const result = reserve(
            limits,
            { worstCase: o.worstCase, minimum: Math.min(5, o.worstCase), clamp: o.clamp },
            wall,
          );
          if (result.ok) {
            const charges = chargesOf(limits);
            open.push({ tokens: result.tokens, charges });
            for (const { bucket, window } of charges) page(buckets.indexOf(bucket), window).held += result.tokens;
          } else {
            expect(leftOf(result.limit)).toBeLessThan(o.clamp ? Math.min(5, o.worstCase) : o.worstCase);
          }
        } else if (o.op === "settle") {
          const [one] = open.splice(o.which % Math.max(1, open.length), 1);
          if (!one) continue;
          const used = Math.floor(one.tokens * o.share);
          settle(one.charges, one.tokens, used);
          for (const { bucket, window } of one.charges) {
            const entry = page(buckets.indexOf(bucket), window);
            entry.held -= one.tokens;
            entry.used += used;
          }
        } else {
          const disk: Disk = {
            buckets: buckets.map(({ windowSeconds, window, spent }) => ({ windowSeconds, window, spent })),
            open: open.map(({ tokens, charges }) => ({
              tokens,
              charges: charges.map(({ bucket, window }) => [buckets.indexOf(bucket), window]),
            })),
          };
          const back = disk.buckets.map((b) => ({ ...b, reserved: 0 }));
          buckets = back;
          open = disk.open.map(({ tokens, charges }) => ({
            tokens,
            charges: charges.flatMap(([i, window]) => {
              const found = back[i];
              return found ? [{ bucket: found, window }] : [];
            }),
          }));
          for (const { charges, tokens } of open) restore(charges, tokens);
        }
        for (const [i, { window, spent, reserved }] of buckets.entries()) {
          const limit = LIMITS[i] ?? 0;
          if (limit > 0) expect(spent + reserved).toBeLessThanOrEqual(limit);
          expect({ used: spent, held: reserved }).toEqual(page(i, window));
        }
      }
    }),
    { numRuns: 500 },
  );
});
