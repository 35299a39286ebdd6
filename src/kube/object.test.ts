import type { V1NetworkPolicy, V1Pod } from "@kubernetes/client-node";
import fc from "fast-check";
import { expect, expectTypeOf, test } from "vitest";
import { controllerOf, includesVersion, keyOf, microTime, type ObjectOf, parseKey, type Wire } from "./object.ts";
import { pathOf, RESOURCES, selectorOf } from "./resource.ts";

const name = fc.stringMatching(/^[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?$/);

test("a key gives back what it was made of", () => {
  fc.assert(
    fc.property(name, fc.option(name, { nil: undefined }), (name, namespace) => {
      const metadata = namespace === undefined ? { name } : { name, namespace };
      expect(parseKey(keyOf({ apiVersion: "v1", kind: "X", metadata }))).toEqual(metadata);
    }),
  );
});

test("versions compare as the numbers they are, beyond what a double holds", () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n }), fc.bigInt({ min: 0n, max: 2n ** 64n }), (a, b) => {
      expect(includesVersion(String(a), String(b))).toBe(a >= b);
    }),
  );
  expect(includesVersion("a", "a")).toBe(true);
  expect(includesVersion("b", "a")).toBe(false);
  expect(includesVersion("9", "a")).toBe(false);
});

test("a MicroTime has six digits", () => {
  expect(microTime(Date.UTC(2026, 0, 2, 3, 4, 5, 6))).toBe("2026-01-02T03:04:05.006000Z");
});

test("the controller of an object is the owner that says so", () => {
  const owner = { apiVersion: "v1", kind: "Pool", name: "a", uid: "1" };
  const pod = { apiVersion: "v1", kind: "Pod", metadata: { name: "p", ownerReferences: [owner] } };
  expect(controllerOf(pod)).toBeUndefined();
  pod.metadata.ownerReferences.push({ ...owner, uid: "2", controller: true } as typeof owner);
  expect(controllerOf(pod)?.uid).toBe("2");
});

test("the library's models read as JSON", () => {
  type Policy = ObjectOf<V1NetworkPolicy>;
  expectTypeOf<NonNullable<NonNullable<Policy["spec"]>["ingress"]>[number]>().toHaveProperty("from");
  expectTypeOf<NonNullable<Wire<V1Pod>["status"]>["startTime"]>().toEqualTypeOf<string | undefined>();
  expectTypeOf<ObjectOf<V1Pod>["metadata"]["name"]>().toEqualTypeOf<string>();
});

const paths = [
  { name: "core, all namespaces", given: pathOf(RESOURCES.pods), want: "/api/v1/pods" },
  {
    name: "core object",
    given: pathOf(RESOURCES.pods, { namespace: "n", name: "a" }),
    want: "/api/v1/namespaces/n/pods/a",
  },
  {
    name: "status of an object",
    given: pathOf(RESOURCES.statefulSets, { namespace: "n", name: "a", subresource: "status" }),
    want: "/apis/apps/v1/namespaces/n/statefulsets/a/status",
  },
  {
    name: "no namespace",
    given: pathOf(RESOURCES.nodes, { namespace: "n", name: "a" }),
    want: "/api/v1/nodes/a",
  },
  {
    name: "a name that is no path",
    given: pathOf(RESOURCES.nodes, { name: "../a?b" }),
    want: "/api/v1/nodes/..%2Fa%3Fb",
  },
];
test.each(paths)("path: $name", ({ given, want }) => expect(given).toBe(want));

test("a name without its namespace is a mistake, not another object", () => {
  expect(() => pathOf(RESOURCES.pods, { name: "a" })).toThrow('a Pod has a namespace: say in which "a" is');
});

test("the same labels are always the same selector", () => {
  expect(selectorOf({ b: "2", a: "1" })).toBe("a=1,b=2");
});
