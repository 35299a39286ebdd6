import fc from "fast-check";
import { expect, test } from "vitest";
import { divideThreads } from "./threads.ts";

const users = fc.array(fc.record({ working: fc.boolean(), most: fc.integer({ min: 1, max: 16 }) }), { maxLength: 12 });

test("each has at least one and at most what it can use; those who work get every CPU they can use, and no more than there are", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 64 }), users, (cpus, list) => {
      const all = list.map((user, i) => ({ id: String(i), ...user }));
      const threads = divideThreads(cpus, all);
      for (const user of all) {
        expect(threads.get(user.id)).toBeGreaterThanOrEqual(1);
        expect(threads.get(user.id)).toBeLessThanOrEqual(user.most);
      }
      const workers = all.filter((user) => user.working);
      const sum = workers.reduce((total, user) => total + (threads.get(user.id) ?? 0), 0);
      const usable = workers.reduce((total, user) => total + user.most, 0);
      expect(sum).toBe(Math.max(workers.length, Math.min(cpus, usable)));
      for (const a of workers) {
        for (const b of workers) {
          const [x = 0, y = 0] = [threads.get(a.id), threads.get(b.id)];
          // Nobody has two more than another who could use one more.
          if (y < b.most) expect(x).toBeLessThanOrEqual(y + 1);
        }
      }
    }),
  );
});

test("idle ones keep the share they have when all work", () => {
  const threads = divideThreads(8, [
    { id: "a", working: true, most: 8 },
    { id: "b", working: false, most: 8 },
    { id: "c", working: false, most: 8 },
    { id: "d", working: false, most: 8 },
  ]);
  expect(Object.fromEntries(threads)).toEqual({ a: 8, b: 2, c: 2, d: 2 });
});
