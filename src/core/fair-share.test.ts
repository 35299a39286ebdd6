import fc from "fast-check";
import { expect, test } from "vitest";
import { type Candidate, LEAD, pickFair } from "./fair-share.ts";

const candidate = fc.record({
  flow: fc.record({ running: fc.integer({ min: 0, max: 4 }), turns: fc.integer({ min: 0, max: 6 }) }),
  deadline: fc.integer({ min: 0, max: 5 }),
});
const candidates = fc
  .array(candidate, { minLength: 1, maxLength: 8 })
  .map((list): Candidate[] => list.map((c, arrival) => ({ ...c, arrivedAt: 0, arrival })));
const share = fc.double({ min: 0.1, max: 4, noNaN: true });

test("a flow that has its share stands back while one below its share waits", () => {
  fc.assert(
    fc.property(candidates, share, (list, share) => {
      const pick = pickFair(list, share)?.pick;
      if (list.some((c) => c.flow.running < share)) expect(pick?.flow.running).toBeLessThan(share);
      else expect(pick?.flow.running).toBe(Math.min(...list.map((c) => c.flow.running)));
    }),
  );
});

test("no one is ahead of the picked one by deadline, but for those who had more than LEAD turns more", () => {
  fc.assert(
    fc.property(candidates, share, (list, share) => {
      const picked = pickFair(list, share);
      if (!picked) return expect.unreachable();
      const { pick, floor } = picked;
      expect(floor).toBe(Math.min(...list.map((c) => c.flow.turns)));
      const below = list.some((c) => c.flow.running < share);
      const inTurn = list.filter((c) => (below ? c.flow.running < share : c.flow.running <= pick.flow.running));
      const least = Math.min(...inTurn.map((c) => c.flow.turns));
      expect(pick.flow.turns).toBeLessThanOrEqual(least + LEAD);
      for (const other of inTurn) {
        if (other.deadline < pick.deadline) expect(other.flow.turns).toBeGreaterThan(least + LEAD);
      }
    }),
  );
});

test("the order of the list does not matter", () => {
  fc.assert(
    fc.property(candidates, share, (list, share) => {
      expect(pickFair([...list].reverse(), share)).toEqual(pickFair(list, share));
    }),
  );
});

test("nobody is picked from nobody", () => {
  expect(pickFair([], 1)).toBeUndefined();
});
