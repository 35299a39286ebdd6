import { expect, test } from "vitest";
import { poolPlan } from "../../test/support/pool.ts";
import { addressesOf, type InstancePod } from "./addresses.ts";

const pod = (
  name: string,
  variant: string,
  { ip = "10.0.0.1", phase = "Running", leaving = false } = {},
): InstancePod => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: {
    name,
    labels: { "llmpool.dev/variant": variant },
    ...(leaving && { deletionTimestamp: "2026-01-01T00:00:00Z" }),
  },
  status: { podIP: ip, phase },
});

const short = (plan: ReturnType<typeof poolPlan>, pods: InstancePod[]) =>
  addressesOf(plan, pods).map(({ id, url, draining }) => `${id} ${url}${draining ? " draining" : ""}`);

test("a pod holds the instance of its ordinal", () => {
  const plan = poolPlan({ instances: 2, variants: [{ name: "code", instances: 1 }] });
  const pods = [pod("apex-1", "default"), pod("apex-code-0", "code", { ip: "fd00::1" })];
  expect(short(plan, pods)).toEqual(["1 http://10.0.0.1:8000", "code-0 http://[fd00::1]:8000"]);
});

test("one that leaves drains, also when the plan no longer holds it", () => {
  const plan = poolPlan({ instances: 1 });
  const pods = [pod("apex-0", "default", { leaving: true }), pod("apex-1", "default")];
  expect(short(plan, pods)).toEqual(["0 http://10.0.0.1:8000 draining", "1 http://10.0.0.1:8000 draining"]);
});

test("a Packed pod holds several, and its spare places none", () => {
  const plan = poolPlan({ instances: 3, gpu: { mode: "Packed", instancesPerPod: 2 } });
  expect(short(plan, [pod("apex-0", "default"), pod("apex-1", "default")])).toEqual([
    "0 http://10.0.0.1:8000",
    "1 http://10.0.0.1:8001",
    "2 http://10.0.0.1:8000",
  ]);
});

test("what has no address, has ended or belongs to no variant is nowhere", () => {
  const plan = poolPlan({ instances: 3 });
  const pods = [
    pod("apex-0", "default", { ip: "" }),
    pod("apex-1", "default", { phase: "Failed" }),
    pod("apex-old-0", "old"),
  ];
  expect(short(plan, pods)).toEqual([]);
});
