import fc from "fast-check";
import { expect, test } from "vitest";
import { Heap } from "./heap.ts";

test("pops values in the order of their instants, whatever order they came in", () => {
  const op = fc.oneof(fc.integer({ min: 0, max: 50 }), fc.constant("pop" as const));
  fc.assert(
    fc.property(fc.array(op, { maxLength: 200 }), (ops) => {
      const heap = new Heap<number>();
      const model: number[] = [];
      for (const o of ops) {
        if (o === "pop") expect(heap.pop()).toBe(model.shift());
        else {
          heap.push(o, o);
          model.push(o);
          model.sort((a, b) => a - b);
        }
        expect(heap.size).toBe(model.length);
        expect(heap.nextAt).toBe(model[0] ?? Number.POSITIVE_INFINITY);
      }
    }),
  );
});
