import { expect, test } from "vitest";
import { poolPlan } from "../../test/support/pool.ts";
import { setNameOf } from "../core/plan/set-name.ts";
import { addressesOf, type InstanceSlice, type SliceEndpoint } from "./addresses.ts";

const endpoint = (name: string, { ip = "10.0.0.1", leaving = false, uid = `${name}-uid` } = {}): SliceEndpoint => ({
  addresses: [ip],
  conditions: { terminating: leaving },
  targetRef: { kind: "Pod", name, uid },
});

const slice = (endpoints: SliceEndpoint[], { version = "1", type = "IPv4" } = {}): InstanceSlice => ({
  apiVersion: "discovery.k8s.io/v1",
  kind: "EndpointSlice",
  metadata: { name: `apex-instances-${version}`, resourceVersion: version },
  addressType: type,
  endpoints,
});

const short = (plan: ReturnType<typeof poolPlan>, ...slices: InstanceSlice[]) =>
  addressesOf(plan, slices).map(({ id, url, draining }) => `${id} ${url}${draining ? " draining" : ""}`);

test("a pod holds the instance of its ordinal", () => {
  const plan = poolPlan({ instances: 2, variants: [{ name: "code", instances: 1 }] });
  const endpoints = [endpoint("apex-1"), endpoint("apex-code-0", { ip: "10.0.0.2" })];
  expect(short(plan, slice(endpoints))).toEqual(["1 http://10.0.0.1:8000", "code-0 http://10.0.0.2:8000"]);
});

test("the name of a variant may look like an ordinal", () => {
  const plan = poolPlan({ instances: 2, variants: [{ name: "x-1", instances: 2 }] });
  const endpoints = [endpoint("apex-1"), endpoint("apex-x-1-1", { ip: "10.0.0.2" })];
  expect(short(plan, slice(endpoints))).toEqual(["1 http://10.0.0.1:8000", "x-1-1 http://10.0.0.2:8000"]);
});

test("a pod of the longest names, whose StatefulSet's is shortened, is found", () => {
  const plan = { ...poolPlan({ variants: [{ name: "v".repeat(12), instances: 1 }] }), pool: "p".repeat(40) };
  const set = setNameOf(plan.pool, "v".repeat(12));
  expect(set.length).toBeLessThan(53);
  expect(short(plan, slice([endpoint(`${set}-0`)]))).toEqual(["vvvvvvvvvvvv-0 http://10.0.0.1:8000"]);
});

test("one that leaves drains, also when the plan no longer holds it", () => {
  const plan = poolPlan({ instances: 1 });
  const endpoints = [endpoint("apex-0", { leaving: true }), endpoint("apex-1")];
  expect(short(plan, slice(endpoints))).toEqual(["0 http://10.0.0.1:8000 draining", "1 http://10.0.0.1:8000 draining"]);
});

test("a Packed pod holds several, and its spare places none", () => {
  const plan = poolPlan({ instances: 3, gpu: { mode: "Packed", instancesPerPod: 2 } });
  expect(short(plan, slice([endpoint("apex-0"), endpoint("apex-1")]))).toEqual([
    "0 http://10.0.0.1:8000",
    "1 http://10.0.0.1:8001",
    "2 http://10.0.0.1:8000",
  ]);
});

test("what is no pod, has no address or belongs to no variant is nowhere", () => {
  const plan = poolPlan({ instances: 3 });
  const others = [
    { ...endpoint("apex-0"), addresses: [] },
    { ...endpoint("apex-1"), targetRef: { kind: "Node", name: "apex-1" } },
    { addresses: ["10.0.0.9"] },
    endpoint("apex-old-0"),
    endpoint("apex"),
    endpoint("other-2"),
  ];
  expect(short(plan, slice(others), slice([endpoint("apex-0", { ip: "a.example" })], { type: "FQDN" }))).toEqual([]);
  expect(short(plan, { ...slice([]), endpoints: null })).toEqual([]);
});

test("a Service with many pods has several slices", () => {
  const plan = poolPlan({ instances: 2 });
  const slices = [slice([endpoint("apex-0")]), slice([endpoint("apex-1", { ip: "10.0.0.2" })], { version: "2" })];
  expect(short(plan, ...slices)).toEqual(["0 http://10.0.0.1:8000", "1 http://10.0.0.2:8000"]);
});

test.each([
  ["a pod that moves from one slice to another", [{}, { leaving: true }]],
  [
    "a pod whose slice is older than the next pod of its name",
    [
      { uid: "first", leaving: true },
      { uid: "next", ip: "10.0.0.2" },
    ],
  ],
])("%s counts as the newest slice has it", (_, [older, newer]) => {
  const plan = poolPlan({ instances: 1 });
  const slices = [
    slice([endpoint("apex-0", older)], { version: "99" }),
    slice([endpoint("apex-0", newer)], { version: "100" }),
  ];
  const want = short(plan, slice([endpoint("apex-0", newer)]));
  expect(want).toHaveLength(1);
  expect(short(plan, ...slices)).toEqual(want);
  expect(short(plan, ...slices.reverse())).toEqual(want);
});

test("a pod with two families of addresses is called at one: IPv4, and IPv6 where there is no other", () => {
  const plan = poolPlan({ instances: 2 });
  const four = slice([endpoint("apex-0")], { version: "1" });
  const six = slice([endpoint("apex-0", { ip: "fd00::1" }), endpoint("apex-1", { ip: "fd00::2" })], {
    version: "2",
    type: "IPv6",
  });
  expect(short(plan, four, six)).toEqual(["0 http://10.0.0.1:8000", "1 http://[fd00::2]:8000"]);
  // Of another pod's address nothing is taken.
  const old = slice([endpoint("apex-0", { uid: "before" })], { version: "1" });
  expect(short(plan, old, six)[0]).toBe("0 http://[fd00::1]:8000");
});
