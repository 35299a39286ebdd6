import fc from "fast-check";
import { expect, test } from "vitest";
import { ObjectCache } from "./cache.ts";
import { type KubeObject, keyOf } from "./object.ts";

const object = fc.record({
  apiVersion: fc.constant("v1"),
  kind: fc.constant("Pod"),
  metadata: fc.record({
    namespace: fc.constantFrom("x", "y"),
    name: fc.constantFrom("a", "b", "c"),
    labels: fc.record({ pool: fc.constantFrom("p", "q", "r"), tier: fc.constantFrom("p", "s") }),
  }),
});

test("looking up by an index gives what going through all objects gives", () => {
  const change = fc.record({ object, gone: fc.boolean() });
  const values = (o: KubeObject) => [...new Set(Object.values(o.metadata.labels ?? {}))];
  fc.assert(
    fc.property(fc.array(change, { maxLength: 60 }), (changes) => {
      const cache = new ObjectCache<KubeObject, "value">({ value: values });
      const plain = new Map<string, KubeObject>();
      for (const { object, gone } of changes) {
        const key = keyOf(object);
        const before = gone ? cache.delete(key) : cache.set(object);
        expect(before).toBe(plain.get(key));
        if (gone) plain.delete(key);
        else plain.set(key, object);
        for (const value of ["p", "q", "r", "s"]) {
          const want = [...plain.values()].filter((o) => values(o).includes(value));
          expect(new Set(cache.by("value", value))).toEqual(new Set(want));
        }
      }
      expect(new Set(cache.list())).toEqual(new Set(plain.values()));
    }),
  );
});
