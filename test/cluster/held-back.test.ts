import { isDeepStrictEqual } from "node:util";
import { expect } from "vitest";
import { OWNED } from "../../operator/kinds.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { RESOURCES } from "../../src/kube/resource.ts";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import { nameOfWrite } from "../support/fault-proxy.ts";
import { OperatedNamespace, type Outcome } from "../support/operated-namespace.ts";
import { worldOf } from "../support/world.ts";

const cluster = await clusterForTests();
cluster.installCrd();

/** Followed by an operator of one namespace, in a cluster without PodMonitors: pools, pods and what pools are made of. */
const KINDS = 2 + OWNED.length;

/** Two namespaces: one to show what is right, whose operator talks to the first server. */
async function lanes(of: "first" | "second") {
  const { real, world } = await worldOf(cluster, 2);
  const server = await cluster.secondApiServer();
  const quiet = await OperatedNamespace.make(cluster, real, world);
  const lane = await OperatedNamespace.make(cluster, of === "first" ? real : server.credentials, world);
  return { world, server, quiet, lane };
}

/** What an undisturbed operator makes of a story. */
async function undisturbed(quiet: OperatedNamespace, story: readonly (() => Promise<void>)[]): Promise<Outcome> {
  await quiet.operate();
  for (const act of story) {
    await act();
    await quiet.untilRest();
  }
  await quiet.untilQuiet();
  return quiet.outcome();
}

/** Whether the set is of this generation, and its controller knows. */
function isObserved(objects: readonly KubeObject[], generation: number): boolean {
  type Set = KubeObject & { status?: { observedGeneration?: number } };
  const set = objects.find(({ kind }) => kind === "StatefulSet") as Set | undefined;
  return set?.metadata.generation === generation && set.status?.observedGeneration === generation;
}

const isGone = (lane: OperatedNamespace) => isDeepStrictEqual(lane.outcome().state, {});

async function again(lane: OperatedNamespace, spec: object): Promise<void> {
  await lane.delete();
  await eventually("nothing of it is left", () => isGone(lane));
  await lane.create(spec);
}

/** After the past has ended. */
async function endsAs(wanted: Outcome, lane: OperatedNamespace): Promise<void> {
  await lane.becomes(wanted);
  await lane.untilQuiet();
  expect(lane.outcome()).toEqual(wanted);
  expect(lane.lies).toEqual([]);
  expect(lane.operator.exitCode).toBeUndefined();
}

cluster.ownTest(
  "an operator whose API server stays in the past harms no later pool of a name, and one that starts there goes by what is newest",
  async () => {
    const { world, server, quiet, lane } = await lanes("first");
    const wanted = await undisturbed(quiet, [
      () => quiet.create(),
      () => again(quiet, { contextTokens: 1024 }),
      () => quiet.edit({ instances: 3 }),
    ]);

    await lane.operate();
    await lane.create();
    await lane.untilRest();
    // The other begins where pods are to be replaced and none was, and then sees nothing more.
    const isPodDeletion = (write: string) => write.startsWith("DELETE pods/");
    lane.proxy.fail({ when: (call) => isPodDeletion(nameOfWrite(call)), what: "reset" });
    await lane.edit({ contextTokens: 512 });
    await eventually("the set has been rolled out to", () => isObserved(world.objects(lane.name), 2));
    const stale = await lane.standBy(server.credentials);
    server.etcd.holdWatches();
    lane.proxy.faults.length = 0;
    await lane.untilRest();
    await again(lane, { contextTokens: 1024 });
    await lane.untilRest();
    await lane.untilQuiet();
    const before = world.versions(lane.name);
    const { state } = lane.outcome();

    await lane.killOperator();
    lane.takeOver(stale.operator);
    await stale.operator.whenLeading();
    await eventually("it tries what it believes", async () => {
      const tried = stale.proxy.writes.some((write) => isPodDeletion(nameOfWrite(write)));
      return tried && (await stale.operator.metric("controller_runtime_reconcile_total")) > 0;
    });
    expect(world.versions(lane.name)).toEqual(before);
    expect(lane.outcome().state).toEqual(state);

    await lane.killOperator();
    await lane.edit({ instances: 3 });
    const fresh = await lane.standBy(server.credentials);
    lane.takeOver(fresh.operator);
    await eventually("it acts on what it has listed", () =>
      isDeepStrictEqual(lane.outcome().state["StatefulSet/apex"], wanted.state["StatefulSet/apex"]),
    );
    server.etcd.releaseWatches();
    await endsAs(wanted, lane);
  },
  300_000,
);

cluster.ownTest(
  "a pool is deleted and made again, twice, while all that its operator and the next one hear is held back: each ends as undisturbed",
  async () => {
    const { world, server, quiet, lane } = await lanes("second");
    const wanted = await undisturbed(quiet, [
      () => quiet.create(),
      () => again(quiet, { contextTokens: 1024 }),
      () => again(quiet, { contextTokens: 2048 }),
    ]);

    await lane.operate();
    await lane.create();
    await lane.untilRest();
    const lists = async () => lane.operator.metric("reflector_lists_total");
    // From its first write on, so that it never hears of this one.
    lane.proxy.fail({
      when: (call) => {
        if (nameOfWrite(call) === "PATCH statefulsets/apex") server.etcd.holdWatches();
        return false;
      },
      what: "reset",
    });
    const writes = lane.writes.length;
    await lane.edit({ instances: 3, contextTokens: 512 });
    await eventually("it has begun", () => lane.writes.slice(writes).includes("PATCH statefulsets/apex"));
    lane.proxy.faults.length = 0;
    const listed = await lists();
    await again(lane, { contextTokens: 1024 });
    const { resourceVersion } = lane.pool?.metadata ?? {};
    await eventually("it looks for its own write", async () => (await lists()) > listed);
    expect(lane.pool?.metadata.resourceVersion).toBe(resourceVersion);

    await lane.killOperator();
    await lane.operate();
    await eventually("it makes what was listed", () => lane.outcome().made["StatefulSet/apex"] === 1);
    const heard = await lists();
    await again(lane, { contextTokens: 2048 });
    await eventually("it looks for its own writes", async () => (await lists()) > heard);
    expect(world.objects(lane.name).filter(({ kind }) => kind === "LLMPool")).toHaveLength(1);
    server.etcd.releaseWatches();
    await endsAs(wanted, lane);
  },
  300_000,
);

cluster.ownTest(
  "an operator that comes to an API server of the past in the middle of a roll-out, and the next one there, go on where it was and replace each pod once",
  async () => {
    const { server, quiet, lane } = await lanes("first");
    const wanted = await undisturbed(quiet, [
      () => quiet.create({ instances: 3 }),
      () => quiet.edit({ contextTokens: 512 }),
    ]);

    await lane.operate();
    await lane.create({ instances: 3 });
    await lane.untilRest();
    server.etcd.holdWatches();
    await lane.edit({ contextTokens: 512 });
    await eventually("a pod is replaced", () => lane.writes.some((write) => write.startsWith("DELETE pods/")));
    lane.proxy.moveTo(server.credentials);
    const { length } = lane.proxy.asked;
    const since = () => lane.proxy.asked.slice(length);
    await eventually("it follows pods there", () => since().some(({ watch, path }) => watch && path.endsWith("/pods")));
    await eventually("it leads on", () => since().some(({ method }) => method === "PUT"));
    await lane.killOperator();
    await lane.operate();
    const replaced = () => Object.keys(lane.outcome().deleted).length;
    await eventually("the next one goes on", () => replaced() > 1);
    server.etcd.releaseWatches();
    await endsAs(wanted, lane);
  },
  200_000,
);

cluster.ownTest(
  "an operator that comes to an API server which began after all it has seen: a new list of each kind, nothing is missed, and nothing is made twice",
  async () => {
    const { real, world } = await worldOf(cluster, 2);
    const lane = await OperatedNamespace.make(cluster, real, world);
    await lane.operate();
    await lane.create();
    await lane.untilRest();
    await lane.untilQuiet();
    lane.proxy.stallWatches();
    const place = { namespace: lane.name, name: "apex" };
    await world.client.delete(RESOURCES.networkPolicies, place);
    await world.client.delete(RESOURCES.statefulSets, place, { propagation: "Orphan" });
    await lane.edit({ instances: 3 });
    const listed = await lane.operator.metric("reflector_lists_total");
    // One that has just begun has none of the history that a watch from there would need: it answers 410.
    lane.proxy.moveTo((await cluster.secondApiServer()).credentials);
    await eventually("all is listed anew", async () => {
      return (await lane.operator.metric("reflector_lists_total")) >= listed + KINDS;
    });
    await lane.untilRest();
    await lane.untilQuiet();
    const { made, deleted } = lane.outcome();
    const twice = Object.entries(made).filter(([, times]) => times > 1);
    expect(Object.fromEntries(twice)).toEqual({ "NetworkPolicy/apex": 2, "StatefulSet/apex": 2 });
    expect(deleted).toEqual({});
    expect(lane.lies).toEqual([]);
  },
);

cluster.ownTest(
  "an API server that is cut off from etcd: an operator that starts there is not ready and writes nothing, one that led there ends; all heals",
  async () => {
    const { world, server, quiet, lane } = await lanes("second");
    const [wanted, led] = await Promise.all([
      undisturbed(quiet, [() => quiet.create({ contextTokens: 512 })]),
      OperatedNamespace.make(cluster, server.credentials, world),
    ]);
    await led.operate();
    await led.create();
    await led.untilRest();

    const heal = await server.etcd.cutOff();
    const starting = lane.start({ level: "info" });
    await lane.create({ contextTokens: 512 });
    await led.edit({ contextTokens: 512 });
    expect(await led.operator.whenExited()).toBe(1);
    await eventually("it says so", () => starting.said.includes("list or watch interrupted"));
    expect(await starting.isReady()).toBe(false);
    expect(lane.proxy.writes).toEqual([]);
    await heal();
    await starting.whenSynced();
    await starting.whenLeading();
    expect(await starting.isReady()).toBe(true);
    await endsAs(wanted, lane);
    await led.operate();
    await led.untilRest();
    await led.untilQuiet();
    expect(led.lies).toEqual([]);
  },
  400_000,
);
