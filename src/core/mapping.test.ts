import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { agentKey, hashAgent, jumpHash, ownersOf } from "./mapping.ts";
import vectors from "./published/mapping-vectors.json" with { type: "json" };

describe("an agent's instance", () => {
  test.each(vectors.agents)("of $id is the published one", ({ id, key, instance }) => {
    expect(`0x${agentKey(id).toString(16).padStart(16, "0")}`).toBe(key);
    for (const [instances, want] of Object.entries(instance)) expect(hashAgent(id, Number(instances))).toBe(want);
  });

  test("exists for every id and every number of instances", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), fc.integer({ min: 1, max: 300 }), (id, n) => {
        const index = hashAgent(id, n);
        expect(Number.isInteger(index) && index >= 0 && index < n).toBe(true);
      }),
    );
  });

  test("moves only to the new instance when there is one more", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.integer({ min: 1, max: 300 }), (key, n) => {
        const after = jumpHash(key, n + 1);
        if (after !== n) expect(after).toBe(jumpHash(key, n));
      }),
    );
  });

  test("spreads agents evenly", () => {
    const counts = new Array<number>(8).fill(0);
    for (let i = 0; i < 8000; i++) {
      const index = hashAgent(`agent-${i}`, 8);
      counts[index] = (counts[index] ?? 0) + 1;
    }
    for (const count of counts) expect(Math.abs(count - 1000)).toBeLessThan(150);
  });

  test("does not exist without instances", () => {
    expect(() => hashAgent("a", 0)).toThrow(RangeError);
  });
});

describe("a role's instances", () => {
  test.each(vectors.roles)(
    "are the published ones for $roles roles on $instances instances",
    ({ roles, instances, owned }) => {
      expect(Array.from({ length: roles }, (_, k) => ownersOf(k, roles, instances))).toEqual(owned);
    },
  );

  test("cover every instance, and no two roles share one while there are enough", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 64 }), fc.integer({ min: 1, max: 256 }), (roles, instances) => {
        const owned = Array.from({ length: roles }, (_, k) => ownersOf(k, roles, instances));
        for (const some of owned) expect(some.length).toBeGreaterThan(0);
        const all = owned.flat();
        expect([...new Set(all)].sort((a, b) => a - b)).toEqual(Array.from({ length: instances }, (_, i) => i));
        if (roles <= instances) expect(all.length).toBe(instances);
      }),
    );
  });
});
