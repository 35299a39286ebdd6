import { expect } from "vitest";
import { LLMPOOLS } from "../../operator/kinds.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { clusterForTests } from "../support/cluster.ts";
import { conditionOf } from "../support/conditions.ts";
import { eventually } from "../support/eventually.ts";
import type { Asked } from "../support/fault-proxy.ts";
import { OperatedNamespace } from "../support/operated-namespace.ts";
import { type Pool, stub } from "../support/pools.ts";
import { worldOf } from "../support/world.ts";

const cluster = await clusterForTests();
cluster.installCrd();

/** How long it is watched: long enough for each silent watch to be doubted once. `LLMPOOL_REST_SECONDS=600` for all of them to be opened anew. */
const REST_MS = 1000 * Number(process.env.LLMPOOL_REST_SECONDS ?? 45);
/** So long without a write that what had still to be told has been told: the operator lets 5 s pass for progress. */
const TOLD_MS = 10_000;

/** Pools of every kind of rest, and the reason of `Ready` of each. Those that wait for somebody are looked at every few seconds. */
const POOLS: Record<string, { spec: object; reason: string }> = {
  serves: { spec: {}, reason: "Ready" },
  variants: {
    spec: {
      variants: [{ name: "code", instances: 2 }],
      roles: [{ name: "planner" }, { name: "coder", variant: "code" }],
    },
    reason: "Ready",
  },
  off: { spec: { instances: 0 }, reason: "ScaledToZero" },
  nowhere: { spec: { podTemplate: { spec: { nodeSelector: { nowhere: "yes" } } } }, reason: "Unschedulable" },
  taken: { spec: {}, reason: "ObjectTaken" },
  loads: {
    spec: { backend: "llama-cpp", model: { uri: "hf://org/repo/m.gguf", cache: { storage: "1Gi" } } },
    reason: "Loading",
  },
};

const isWrite = ({ method, path }: Asked) => method !== "GET" && !path.includes("/leases/");

cluster.ownTest(
  "an operator whose pools are at rest writes nothing by its own timers, for as long as it is watched",
  async () => {
    const { real, world } = await worldOf(cluster, 2);
    const lane = await OperatedNamespace.make(cluster, real, world);
    await lane.operate();
    const theirs = { name: "taken", namespace: lane.name };
    await world.client.create<KubeObject>({ apiVersion: "v1", kind: "ServiceAccount", metadata: theirs });
    for (const [name, { spec }] of Object.entries(POOLS))
      await world.client.create<KubeObject>({ ...stub(spec), metadata: { namespace: lane.name, name } });
    const { asked } = lane.proxy;
    await eventually("each has come to its rest", async () => {
      const { items } = await world.client.list<Pool>(LLMPOOLS, { namespace: lane.name });
      const reasons = items.map((pool) => [pool.metadata.name, conditionOf(pool, "Ready")?.reason]);
      expect(Object.fromEntries(reasons)).toEqual(
        Object.fromEntries(Object.entries(POOLS).map(([name, { reason }]) => [name, reason])),
      );
      return performance.now() - (asked.findLast(isWrite)?.at ?? 0) > TOLD_MS;
    });
    const before = asked.length;
    const state = world.state(lane.name);
    const reconciles = await lane.operator.metric("controller_runtime_reconcile_total");

    await new Promise((resolve) => setTimeout(resolve, REST_MS));
    const since = asked.slice(before);
    if (process.env.LLMPOOL_LOGS) console.log(told(since));
    expect(since.filter(isWrite)).toEqual([]);
    expect(world.state(lane.name)).toEqual(state);
    // It was not asleep.
    expect(since.filter(({ path }) => path.includes("/leases/")).length).toBeGreaterThan(REST_MS / 10_000);
    expect(since.filter(({ watch }) => watch)).not.toEqual([]);
    expect(await lane.operator.metric("controller_runtime_reconcile_total")).toBeGreaterThan(reconciles);
  },
  120_000 + REST_MS,
);

/** What it asked for, by kind of call. */
function told(asked: readonly Asked[]): string {
  const kinds = Map.groupBy(
    asked,
    ({ method, path, watch }) => `${watch ? "WATCH" : method} ${path.split("/").at(-1)}`,
  );
  return [...kinds].map(([kind, calls]) => `${calls.length} ${kind}`).join(", ");
}
