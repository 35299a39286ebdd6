import fc from "fast-check";
import { expect, test } from "vitest";
import { IndexedHeap } from "./indexed-heap.ts";

test("the first is the least of those that are in, whichever came, went or changed", () => {
  const step = fc.record({ which: fc.nat(15), key: fc.integer({ min: 0, max: 9 }), leaves: fc.boolean() });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80, size: "max" }), (steps) => {
      const values = Array.from({ length: 16 }, (_, id) => ({ id, key: 0 }));
      const heap = new IndexedHeap<(typeof values)[number]>((a, b) => a.key < b.key);
      const model = new Set<(typeof values)[number]>();
      for (const { which, key, leaves } of steps) {
        const value = values[which];
        if (!value) return expect.unreachable();
        // As it is used: changed first, then taken out, then added again.
        value.key = key;
        heap.remove(value);
        model.delete(value);
        if (!leaves) {
          heap.add(value);
          heap.add(value);
          model.add(value);
        }
        expect(heap.has(value)).toBe(!leaves);
        expect(heap.size).toBe(model.size);
        expect(heap.first?.key).toBe(model.size === 0 ? undefined : Math.min(...[...model].map((v) => v.key)));
      }
    }),
  );
});
