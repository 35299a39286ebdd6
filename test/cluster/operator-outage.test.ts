import { expect, onTestFinished } from "vitest";
import { LLMPOOLS } from "../../operator/kinds.ts";
import { fromKubeconfig } from "../../src/kube/kubeconfig.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { clusterForTests } from "../support/cluster.ts";
import { isAtRest } from "../support/conditions.ts";
import { eventually } from "../support/eventually.ts";
import { type Asked, FaultProxy } from "../support/fault-proxy.ts";
import { OperatedNamespace } from "../support/operated-namespace.ts";
import { PodInstances } from "../support/pod-instances.ts";
import { podRouter, routerKubeconfig } from "../support/pod-router.ts";
import { operate, type Pool, pools, stub } from "../support/pools.ts";
import { forEach, nameOf } from "../support/scaled.ts";
import { type World, worldOf } from "../support/world.ts";

const cluster = await clusterForTests();
cluster.installCrd();

/** How long the API server is away: long enough for the Lease to run out. `LLMPOOL_OUTAGE_SECONDS=600` for a longer one. */
const OUTAGE_MS = 1000 * Number(process.env.LLMPOOL_OUTAGE_SECONDS ?? 40);
const POOLS = 24;
/** Of one operator in any second. */
const MOST_A_SECOND = 50;
/** Between two tries of the same. */
const LONGEST_WAIT_MS = 30_000;
/** What a try itself takes on a machine that has other things to do. */
const LAG_MS = 1_000;

/** How the API server is away, and whether somebody else edits all pools meanwhile. */
const OUTAGES: Record<string, { away: (lane: OperatedNamespace) => Promise<() => unknown>; edited: boolean }> = {
  "refused connections": { away: ({ proxy }) => proxy.refuse(), edited: false },
  "reset connections": { away: async ({ proxy }) => proxy.breakOff(), edited: false },
  "reset connections, while all pools are edited": { away: async ({ proxy }) => proxy.breakOff(), edited: true },
};

const numbers = Array.from({ length: POOLS }, (_, i) => i);

cluster.ownTest(
  "an API server that was away is asked less than fifty times a second when it is back, and all is as before",
  async () => {
    const { real, world } = await worldOf(cluster, 2);
    await Promise.all(
      Object.entries(OUTAGES).map(async ([name, { away, edited }]) => {
        const lane = await OperatedNamespace.make(cluster, real, world);
        await lane.operate();
        await forEach(numbers, (i) =>
          world.client.create<KubeObject>({
            ...stub({ instances: 1 }),
            metadata: { namespace: lane.name, name: nameOf(i) },
          }),
        );
        await allAtRest(world, lane.name);
        const before = world.state(lane.name);
        const writes = lane.writes.length;

        const wentAt = performance.now();
        const comeBack = await away(lane);
        const restarted = restart(lane);
        if (edited)
          await forEach(numbers, (i) =>
            world.client.merge(LLMPOOLS, { namespace: lane.name, name: nameOf(i) }, { spec: { instances: 2 } }),
          );
        await new Promise((resolve) => setTimeout(resolve, OUTAGE_MS));
        const cameAt = performance.now();
        await comeBack();
        await restarted;
        await eventually("it has looked at each pool", async () => {
          return (await lane.operator.metric("controller_runtime_reconcile_total")) >= POOLS;
        });
        await allAtRest(world, lane.name, edited ? 2 : 1);

        const meanwhile = lane.proxy.asked.filter(({ at }) => at >= wentAt && at < cameAt);
        const since = lane.proxy.asked.filter(({ at }) => at >= cameAt);
        const seen = `${name}: ${busiest(meanwhile)} in the busiest second without the server, ${busiest(since)} with it again`;
        if (process.env.LLMPOOL_LOGS) console.log(seen);
        expect(busiest(meanwhile), seen).toBeLessThan(MOST_A_SECOND);
        expect(longestWait(meanwhile), name).toBeLessThan(LONGEST_WAIT_MS + LAG_MS);
        expect(busiest(since), seen).toBeLessThan(MOST_A_SECOND);
        expect(since.filter(({ method }) => method === "DELETE")).toEqual([]);
        if (edited) return;
        expect(lane.writes.slice(writes), name).toEqual([]);
        expect(world.state(lane.name), name).toEqual(before);
      }),
    );
  },
  300_000 + OUTAGE_MS,
);

cluster.nodeTest(
  "while the API server is away a router answers every call, its sessions stay where they are, and it asks seldom",
  async () => {
    const namespace = await cluster.namespace();
    await cluster.addFakeNodes({ count: 1 });
    await operate(cluster, namespace);
    await cluster.apply([stub({ roles: [{ name: "planner" }] })], namespace);
    await pools(cluster).untilCondition(namespace, "Ready", "True");
    const secret = await cluster.get<KubeObject & { data: { token: string } }>("secret", "apex-token", namespace);
    const instances = await PodInstances.with(cluster, namespace, atob(secret.data.token), 2);
    for (const id of ["0", "1"]) await instances.serve(`apex-${id}`, id);
    const proxy = await FaultProxy.start(fromKubeconfig(cluster.kubeconfig));
    onTestFinished(() => proxy.close());
    const kubeconfig = await routerKubeconfig(cluster, namespace, async () => proxy.url);
    const router = await podRouter(namespace, kubeconfig, instances.tokenFile);
    await eventually("both serve", async () => (await router.rows()).every((row) => row.includes(" Ready ")));
    const sessions = ["s1", "s2", "s3", "s4"];
    const homes = await Promise.all(sessions.map((session) => router.ask("planner", session)));
    expect(homes.filter((home) => !home.startsWith("200 "))).toEqual([]);

    const wentAt = performance.now();
    const comeBack = proxy.breakOff();
    const answers = new Map(sessions.map((session) => [session, new Set<string>()]));
    const call = async (session: string) => {
      while (performance.now() - wentAt < OUTAGE_MS)
        answers.get(session)?.add(await router.ask("planner", session, "!stub interTokenMs=50 replyTokens=4\nGo on."));
    };
    await Promise.all(sessions.map(call));
    const cameAt = performance.now();
    comeBack();
    await cluster.apply([stub({ instances: 1, roles: [{ name: "planner" }] })], namespace);
    await eventually("it follows again", async () => !(await router.rows()).join().includes("apex-1"));
    expect(sessions.map((session) => [...(answers.get(session) ?? [])])).toEqual(homes.map((home) => [home]));
    const meanwhile = proxy.asked.filter(({ at }) => at >= wentAt && at < cameAt);
    expect(longestWait(meanwhile)).toBeLessThan(LONGEST_WAIT_MS + LAG_MS);
    expect(busiest(proxy.asked.filter(({ at }) => at >= wentAt))).toBeLessThan(10);
  },
  120_000 + OUTAGE_MS,
);

/** As a kubelet does it, but at once: the operator ends when its Lease has run out. Resolves when its successor leads. */
async function restart(lane: OperatedNamespace): Promise<void> {
  expect(await lane.operator.whenExited()).toBe(1);
  await lane.operate();
}

async function allAtRest(world: World, namespace: string, instances = 1): Promise<void> {
  const rests = (pool: Pool) => isAtRest(pool) && pool.status?.readyInstances === instances;
  await eventually(
    "all pools are at rest",
    () => world.objects(namespace).filter((object) => object.kind === "LLMPool" && rests(object)).length === POOLS,
    120_000,
  );
}

/** The most that came within one second. */
function busiest(asked: readonly Asked[]): number {
  return Math.max(0, ...asked.map(({ at }) => asked.filter((other) => other.at >= at && other.at < at + 1000).length));
}

/** Between two tries of the same, in milliseconds. */
function longestWait(asked: readonly Asked[]): number {
  const tries = Map.groupBy(asked, ({ method, path, watch }) => `${method} ${path} ${watch}`);
  const waits = [...tries.values()].flatMap((same) => same.slice(1).map(({ at }, i) => at - (same[i]?.at ?? 0)));
  return Math.max(0, ...waits);
}
