import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { InstanceState } from "../src/api/instance.ts";
import { planPool } from "../src/core/plan/plan.ts";
import { pool } from "../test/support/pool.ts";
import type { Pod } from "./kinds.ts";
import { ordinalOf, podsToReplace } from "./rollout.ts";

interface Shape {
  ordinal: number;
  revision: string;
  ready: boolean;
  leaving?: boolean;
}

function podOf({ ordinal, revision, ready, leaving = false }: Shape): Pod {
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name: `apex-${ordinal}`,
      annotations: { "llmpool.dev/revision": revision },
      ...(leaving && { deletionTimestamp: "2026-01-01T00:00:00Z" }),
    },
    status: { conditions: [{ type: "Ready", status: ready ? "True" : "False" }] },
  };
}

const next = (shapes: Shape[], wanted = shapes.length, revision = "new") =>
  podsToReplace({ pods: shapes.map(podOf), wanted, revision }).map((pod) => pod.metadata.name);

const old = (ordinal: number, ready = true): Shape => ({ ordinal, revision: "old", ready });
const fresh = (ordinal: number, ready = true): Shape => ({ ordinal, revision: "new", ready });

describe("a rollout", () => {
  test.each([
    {
      name: "begins with the highest ordinal, and there are ten and more",
      pods: Array.from({ length: 11 }, (_, i) => old(i)),
      want: ["apex-10"],
    },
    { name: "waits while a pod is missing", pods: [old(0), old(1)], wanted: 3, want: [] },
    { name: "waits while a pod leaves", pods: [old(0), { ...old(1), leaving: true }], want: [] },
    { name: "stops at a replaced pod that does not become ready", pods: [old(0), old(1), fresh(2, false)], want: [] },
    { name: "goes on when it is", pods: [old(0), old(1), fresh(2)], want: ["apex-1"] },
    {
      name: "takes one that does not serve before those that do",
      pods: [old(0, false), old(1), fresh(2)],
      want: ["apex-0"],
    },
    {
      name: "leaves one that does not serve while the new one is in doubt",
      pods: [old(0, false), fresh(1, false)],
      want: [],
    },
    { name: "replaces at once what never served", pods: [old(0, false), old(1, false)], want: ["apex-0", "apex-1"] },
    { name: "lets pods above the scale alone: they go anyway", pods: [fresh(0), old(1)], wanted: 1, want: [] },
    { name: "is over", pods: [fresh(0), fresh(1)], want: [] },
  ])("$name", ({ pods, wanted, want }) => {
    expect(next(pods, wanted)).toEqual(want);
  });

  test("that was bad heals when it is reverted: the broken pod goes at once, and no other", () => {
    expect(next([old(0), old(1), fresh(2, false)], 3, "old")).toEqual(["apex-2"]);
  });
});

describe("a rollout of Packed pods, two instances each", () => {
  const instances = planPool(pool({ backend: "stub", instances: 6, gpu: { mode: "Packed", instancesPerPod: 2 } }))
    .variants[0]?.instances;
  /** @param states what each pod has said of its instances, by its ordinal; `of`: the revision of these processes */
  const turn = (shapes: Shape[], states: Record<number, readonly InstanceState[]>, revision = "new", of?: string) => {
    const said = (pod: Pod) =>
      new Map(
        states[ordinalOf(pod)]?.map((state, slot) => [
          `${2 * ordinalOf(pod) + slot}`,
          { state, ...(of && { revision: of }) },
        ]),
      );
    const packed = { instances: instances ?? [], said };
    return podsToReplace({ pods: shapes.map(podOf), wanted: 3, revision, packed }).map((pod) => pod.metadata.name);
  };

  test("goes on when a new pod has said that each of its instances is Ready, and not when its supervisor answers", () => {
    const pods = [old(0), old(1), fresh(2)];
    expect(turn(pods, {})).toEqual([]);
    expect(turn(pods, { 2: [] })).toEqual([]);
    expect(turn(pods, { 2: ["Ready", "Loading"] })).toEqual([]);
    expect(turn(pods, { 2: ["Ready"] })).toEqual([]);
    expect(turn(pods, { 2: ["Ready", "Ready"] })).toEqual(["apex-1"]);
    expect(turn(pods, { 2: ["Ready", "Ready"] }, "new", "before")).toEqual([]);
  });

  test("takes one of those that have not spoken, and at once those that say that none of their instances runs", () => {
    const pods = [old(0), old(1), old(2)];
    expect(turn(pods, {})).toEqual(["apex-2"]);
    expect(turn(pods, { 0: ["Failed", "Failed"], 1: ["Failed", "Ready"], 2: ["Loading", "Loading"] })).toEqual([
      "apex-0",
    ]);
    const reverted = { 0: ["Ready", "Ready"], 1: ["Ready", "Ready"], 2: ["Failed", "Failed"] } as const;
    expect(turn([old(0), old(1), fresh(2)], reverted, "old")).toEqual(["apex-2"]);
  });
});

/** What the StatefulSet and a kubelet do: pods that were deleted come back with the newest revision, ready if that is good. */
test("whatever happens, a good change ends with new pods, a bad one with one broken pod, and never are two serving pods gone at once", () => {
  const world = fc.record({
    count: fc.integer({ min: 1, max: 8 }),
    good: fc.boolean(),
    down: fc.array(fc.integer({ min: 0, max: 7 })),
  });
  fc.assert(
    fc.property(world, ({ count, good, down }) => {
      let pods = Array.from({ length: count }, (_, i) => old(i));
      for (let step = 0; step < 4 * count + 4; step++) {
        const names = new Set(next(pods, count));
        const serving = pods.filter((pod) => names.has(`apex-${pod.ordinal}`) && pod.ready);
        expect(serving.length).toBeLessThanOrEqual(1);
        pods = pods.map((pod) => (names.has(`apex-${pod.ordinal}`) ? fresh(pod.ordinal, good) : pod));
        // A pod falls over on its own, and is up again a step later.
        const hit = down[step];
        pods = pods.map((pod) => (pod.revision === "old" ? { ...pod, ready: pod.ordinal !== hit } : pod));
      }
      if (good) expect(pods).toEqual(Array.from({ length: count }, (_, i) => fresh(i)));
      else expect(pods.filter((pod) => pod.revision === "new")).toHaveLength(1);
    }),
  );
});
