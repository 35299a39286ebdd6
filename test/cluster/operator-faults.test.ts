import { isDeepStrictEqual } from "node:util";
import { expect } from "vitest";
import { LLMPOOLS } from "../../operator/kinds.ts";
import type { LLMPoolStatus } from "../../src/api/llmpool.ts";
import { controllerOf, type KubeObject } from "../../src/kube/object.ts";
import { RESOURCES } from "../../src/kube/resource.ts";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import type { Seen } from "../support/fake-kube.ts";
import { nameOfWrite, type ProxyFault } from "../support/fault-proxy.ts";
import { OperatedNamespace } from "../support/operated-namespace.ts";
import { stub } from "../support/pools.ts";
import { type World, worldOf } from "../support/world.ts";

const cluster = await clusterForTests();
cluster.installCrd();

/** So many namespaces, each with an operator that leads behind a proxy of its own. */
async function operated(count: number): Promise<{ world: World; lanes: OperatedNamespace[] }> {
  const { real, world } = await worldOf(cluster, 1);
  const lanes = await Promise.all(Array.from({ length: count }, () => OperatedNamespace.make(cluster, real, world)));
  await Promise.all(lanes.map((lane) => lane.operate()));
  return { world, lanes };
}

/** One namespace, as above. */
async function one(): Promise<{ world: World; lane: OperatedNamespace }> {
  const { world, lanes } = await operated(1);
  return { world, lane: lanes[0] as OperatedNamespace };
}

const isWrite = ({ method, path }: Seen) => method !== "GET" && !path.includes("/leases");
const isWatch = ({ watch }: Seen) => watch;

/** The same random numbers in every run. */
function dice(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    return state / 2 ** 31;
  };
}

const STORMS: Record<string, ProxyFault["what"]> = {
  "a lost race": { status: 409, reason: "Conflict" },
  "a name that seems taken": { status: 409, reason: "AlreadyExists" },
  "a server that asks for patience": { status: 429, reason: "TooManyRequests", headers: { "retry-after": "1" } },
  "an error of the server's own": { status: 500 },
  "504 although it is applied": { statusAfter: 504 },
  "a connection that breaks when it is applied": "reset after",
  "five seconds of waiting": { delayMs: 5_000 },
};

cluster.ownTest(
  "each write meets an error once, and then every other, of each kind: the end and the counts are those of a quiet day, and no status tells of it",
  async () => {
    const { world, lanes } = await operated(1 + Object.keys(STORMS).length);
    const [quiet, ...stormy] = lanes as [OperatedNamespace, ...OperatedNamespace[]];
    const life = async (lane: OperatedNamespace) => {
      await lane.create();
      await lane.untilRest();
      await world.client.merge(
        RESOURCES.services,
        { namespace: lane.name, name: "apex" },
        { metadata: { annotations: { theirs: "stays" } } },
      );
      await lane.edit({ instances: 3, contextTokens: 512 });
      await lane.untilRest();
      await lane.untilQuiet();
      return lane.outcome();
    };
    const wanted = await life(quiet);
    expect(JSON.stringify(wanted.state["Service/apex"])).toContain('"theirs":"stays"');
    await Promise.all(
      Object.entries(STORMS).map(async ([name, what], at) => {
        const lane = stormy[at] as OperatedNamespace;
        const roll = dice(at);
        // Waits are dear: of the later ones a few are enough.
        const share = typeof what === "object" && "delayMs" in what ? 0.2 : 0.5;
        const met = new Set<string>();
        const isFirst = (write: string) => !met.has(write) && met.add(write).size > 0;
        lane.proxy.fail({ when: (call) => isWrite(call) && (isFirst(nameOfWrite(call)) || roll() < share), what });
        await life(lane);
        await lane.becomes(wanted);
        expect(lane.outcome(), name).toEqual(wanted);
        expect(lane.lies, name).toEqual([]);
        const told = lane.proxy.writes.filter(({ path }) => path.endsWith("/status")).map(({ body }) => body);
        expect(
          told.filter((body) => body.includes("ApplyFailed")),
          name,
        ).toEqual([]);
      }),
    );
  },
  300_000,
);

const OUTAGES: Record<string, (lane: OperatedNamespace) => Promise<() => Promise<void>>> = {
  "410 on reconnect": async ({ proxy }) => {
    proxy.fail({ when: isWatch, times: 20, what: { status: 410, reason: "Expired" } });
    proxy.resetWatches();
    return async () => {};
  },
  "410 as an event": async ({ proxy }) => {
    const status = { kind: "Status", code: 410, reason: "Expired", message: "too old resource version" };
    proxy.fail({ when: isWatch, times: 20, what: { raw: `${JSON.stringify({ type: "ERROR", object: status })}\n` } });
    proxy.resetWatches();
    return async () => {};
  },
  "an empty 200": async ({ proxy }) => {
    proxy.fail({ when: isWatch, times: 20, what: { raw: "" } });
    proxy.resetWatches();
    return async () => {};
  },
  "connections that are refused": async ({ proxy }) => proxy.refuse(),
};

cluster.ownTest(
  "watches end in every way while objects go and pools change: all of it is noticed, and nothing is made twice",
  async () => {
    const { world, lanes } = await operated(Object.keys(OUTAGES).length);
    await Promise.all(
      Object.entries(OUTAGES).map(async ([name, fail], at) => {
        const lane = lanes[at] as OperatedNamespace;
        await lane.create();
        await lane.untilRest();
        await lane.untilQuiet();
        const before = lane.outcome();
        const heal = await fail(lane);
        for (const resource of [RESOURCES.networkPolicies, RESOURCES.podDisruptionBudgets])
          await world.client.delete(resource, {
            namespace: lane.name,
            name: resource.kind === "NetworkPolicy" ? "apex" : "apex-router",
          });
        await lane.edit({ instances: 3 });
        await heal();
        await lane.untilRest();
        await eventually(`what went is there again: ${name}`, () => {
          const { made } = lane.outcome();
          return made["NetworkPolicy/apex"] === 2 && made["PodDisruptionBudget/apex-router"] === 2;
        });
        lane.proxy.faults.length = 0;
        await lane.untilQuiet();
        const { made, deleted } = lane.outcome();
        const twice = { "NetworkPolicy/apex": 2, "PodDisruptionBudget/apex-router": 2 };
        expect({ made, deleted }, name).toEqual({ made: { ...before.made, ...twice }, deleted: {} });
        expect(await lane.operator.metric("reflector_failures_total"), name).toBeGreaterThan(0);
        expect(lane.lies, name).toEqual([]);
      }),
    );
  },
  300_000,
);

cluster.ownTest(
  "an operator whose caches show a pool of the past harms no later pool of its name",
  async () => {
    const { world, lane } = await one();
    await lane.create();
    await lane.untilRest();
    // The other begins with an edit that nobody has acted on, and then sees nothing more.
    lane.operator.signal("SIGSTOP");
    await lane.edit({
      instances: 3,
      contextTokens: 512,
      router: { podTemplate: { spec: { terminationGracePeriodSeconds: 5 } } },
    });
    const stale = await lane.standBy();
    stale.proxy.holdWatches();
    lane.operator.signal("SIGCONT");
    await lane.untilRest();
    await lane.delete();
    await eventually("nothing of it is left", () => isDeepStrictEqual(lane.outcome().state, {}));
    await lane.create({ contextTokens: 1024 });
    await lane.untilRest();
    await lane.untilQuiet();
    const before = world.versions(lane.name);
    const { state } = lane.outcome();

    await lane.killOperator();
    await stale.operator.whenLeading();
    await eventually(
      "it tries what it believes",
      async () => (await stale.operator.metric("controller_runtime_reconcile_total")) > 2,
    );
    expect(world.versions(lane.name)).toEqual(before);
    expect(lane.outcome().state).toEqual(state);
    stale.proxy.releaseWatches();
    lane.takeOver(stale.operator);
    await lane.untilQuiet();
    expect(world.versions(lane.name)).toEqual(before);
    await lane.edit({ instances: 3 });
    await lane.untilRest();
    expect(lane.lies).toEqual([]);
  },
  200_000,
);

cluster.ownTest(
  "watches that are silent while pods and the pool are replaced: the right end, from what is there now",
  async () => {
    const { world, lanes } = await operated(2);
    const [podsGo, poolGoes] = lanes as [OperatedNamespace, OperatedNamespace];
    await Promise.all(lanes.map((lane) => lane.create()));
    await Promise.all(lanes.map((lane) => lane.untilRest()));
    for (const { proxy } of lanes) proxy.stallWatches();
    await Promise.all([
      (async () => {
        await world.client.delete(RESOURCES.pods, { namespace: podsGo.name, name: "apex-0" });
        await podsGo.edit({ contextTokens: 512 });
        await podsGo.untilRest();
      })(),
      (async () => {
        await poolGoes.delete();
        await eventually("it is gone", () => isDeepStrictEqual(poolGoes.outcome().state, {}));
        await poolGoes.create({ instances: 1, contextTokens: 512 });
        await poolGoes.untilRest();
        const [pool] = world.objects(poolGoes.name).filter(({ kind }) => kind === "LLMPool");
        const owners = world.objects(poolGoes.name).flatMap((object) => controllerOf(object) ?? []);
        const ofPools = owners.filter(({ kind }) => kind === "LLMPool");
        expect(new Set(ofPools.map(({ uid }) => uid))).toEqual(new Set([pool?.metadata.uid]));
      })(),
    ]);
    await Promise.all(lanes.map((lane) => lane.untilQuiet()));
    for (const { lies, operator } of lanes) {
      expect(lies).toEqual([]);
      expect(await operator.metric("reflector_failures_total")).toBeGreaterThan(0);
    }
  },
  200_000,
);

cluster.ownTest(
  "a pool deleted in the middle of its making, or while there is no operator, leaves nothing; a foreign finalizer is left alone",
  async () => {
    const { world, lane } = await one();
    const killed = lane.killAt("PATCH statefulsets/apex", 1, "after");
    await lane.create();
    await eventually("the operator is killed", () => killed.done());
    await lane.delete();
    await killed.succeeded;
    await eventually("nothing is left", () => isDeepStrictEqual(lane.outcome().state, {}));

    await lane.create();
    await lane.untilRest();
    const service = { namespace: lane.name, name: "apex" };
    const first = await world.client.get<KubeObject>(RESOURCES.services, service);
    await world.client.merge(RESOURCES.services, service, { metadata: { finalizers: ["example.com/theirs"] } });
    await lane.killOperator();
    await lane.delete();
    await eventually(
      "all but what they hold is gone",
      () => Object.keys(lane.outcome().state).join() === "Service/apex",
    );
    const made = lane.outcome().made;
    await lane.operate();
    await lane.create();
    await eventually(
      "all of the new pool but its Service is there",
      () => lane.outcome().made["StatefulSet/apex"] === 1,
    );
    const held = await world.client.get<KubeObject>(RESOURCES.services, service);
    expect([held.metadata.uid, held.metadata.finalizers]).toEqual([first.metadata.uid, ["example.com/theirs"]]);
    expect(made["Service/apex"]).toBe(1);
    await eventually("it is told of", () =>
      JSON.stringify(lane.pool?.status).includes("Service apex of before is still about to go"),
    );
    await world.client.merge(RESOURCES.services, service, { metadata: { finalizers: null } });
    await eventually("the new pool has a Service", () => lane.outcome().made["Service/apex"] === 1);
    await lane.untilRest();
    await lane.untilQuiet();
    expect(lane.lies).toEqual([]);
  },
  200_000,
);

cluster.ownTest(
  "twenty changes of the number at once, to none and back: the last one counts, and no set is written more often than that",
  async () => {
    const { lane } = await one();
    await lane.create();
    await lane.untilRest();
    const before = lane.writes.length;
    for (let i = 0; i < 20; i++) await lane.edit({ instances: i % 4 === 0 ? 0 : 1 + (i % 5) });
    await lane.untilRest();
    await lane.untilQuiet();
    const { state, deleted } = lane.outcome();
    expect((state["StatefulSet/apex"] as { spec: { replicas: number } }).spec.replicas).toBe(1 + (19 % 5));
    const writes = lane.writes.slice(before);
    expect(writes.filter((name) => name === "PATCH statefulsets/apex").length).toBeLessThanOrEqual(20);
    expect(writes.filter((name) => !/statefulsets|status|event/.test(name))).toEqual([]);
    expect(deleted).toEqual({});
    expect(lane.lies).toEqual([]);
  },
);

cluster.ownTest("an operator that is stopped and wakes when another leads writes nothing more, and ends", async () => {
  const { lane } = await one();
  await lane.create();
  await lane.untilRest();
  const old = lane.operator;
  const { operator, proxy } = await lane.standBy();
  old.signal("SIGSTOP");
  await operator.whenLeading();
  await lane.edit({ instances: 3, contextTokens: 512 });
  await lane.untilRest();
  const before = lane.proxy.writes.length;
  const ended = old.whenExited();
  old.signal("SIGCONT");
  expect(await ended).toBe(1);
  expect(lane.proxy.writes.slice(before).filter(isWrite).map(nameOfWrite)).toEqual([]);
  lane.takeOver(operator);
  const quiet = proxy.writes.length;
  await operator.looks(() => lane.nudge());
  expect(proxy.writes.slice(quiet).filter(isWrite).map(nameOfWrite)).toEqual([]);
});

cluster.ownTest("a pool whose calls hang holds up no other, and heals when they go through", async () => {
  const { world, lane } = await one();
  const isBad = ({ path }: Seen) => path.endsWith("/bad") || path.includes("/bad-");
  lane.proxy.fail({ when: isBad, what: "hang" });
  await world.client.create({ ...stub(), metadata: { namespace: lane.name, name: "bad" } } as KubeObject);
  await eventually("it hangs", async () => (await lane.operator.metric("controller_runtime_active_workers")) === 1);
  await lane.create();
  await lane.untilRest();
  await lane.untilQuiet();
  lane.proxy.faults.length = 0;
  await eventually("the other is Ready too", async () => {
    const bad = await world.client.get<KubeObject & { status?: LLMPoolStatus }>(LLMPOOLS, {
      namespace: lane.name,
      name: "bad",
    });
    return bad.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True");
  });
});

cluster.ownTest("a right that is taken away is a condition, and heals when it is given back", async () => {
  const { world, lane } = await one();
  await lane.create();
  await lane.untilRest();
  type Role = KubeObject & { rules: { resources: string[]; verbs: string[] }[] };
  const roles = await world.client.list<Role>(RESOURCES.roles, { namespace: lane.name });
  const role = roles.items.find(({ rules }) => rules.some(({ resources }) => resources.includes("statefulsets")));
  if (!role) throw new Error("the operator has no role");
  const place = { namespace: lane.name, name: role.metadata.name };
  const without = role.rules.map((rule) =>
    rule.resources.includes("statefulsets") ? { ...rule, verbs: rule.verbs.filter((verb) => verb !== "patch") } : rule,
  );
  await world.client.merge(RESOURCES.roles, place, { rules: without });
  await lane.edit({ instances: 3, router: { podTemplate: { spec: { terminationGracePeriodSeconds: 5 } } } });
  await eventually("the condition names it", () =>
    JSON.stringify(lane.outcome().state["LLMPool/apex"]).includes("ApplyFailed"),
  );
  expect(JSON.stringify(lane.outcome().state["LLMPool/apex"])).toMatch(/StatefulSet apex: .*cannot patch/);
  // The others are as they should be.
  expect((lane.outcome().state["Deployment/apex"] as { metadata: { generation: number } }).metadata.generation).toBe(2);
  await world.client.merge(RESOURCES.roles, place, { rules: role.rules });
  await lane.untilRest();
  await lane.untilQuiet();
});

cluster.ownTest(
  "who undoes again and again what the operator writes is told of, and written against at most once in ten seconds",
  async () => {
    const { world, lane } = await one();
    await lane.create();
    await lane.untilRest();
    const place = { namespace: lane.name, name: "apex" };
    const before = lane.writes.length;
    const corrections = () => lane.writes.slice(before).filter((name) => name === "PATCH services/apex").length;
    const ready = () => (lane.pool?.status?.conditions ?? []).find((condition) => condition.type === "Ready");
    type Service = { spec: { selector: Record<string, string> } };
    const isOurs = () => (lane.outcome().state["Service/apex"] as Service).spec.selector["llmpool.dev/pool"] === "apex";
    // A controller that has another wish, and never gives in.
    const end = new AbortController();
    const rival = (async () => {
      for (let i = 0; !end.signal.aborted; i++) {
        const selector = { "llmpool.dev/pool": `theirs-${i}` };
        const done = corrections();
        await world.client.merge(RESOURCES.services, place, { spec: { selector } });
        await eventually("it is put right", () => end.signal.aborted || (corrections() > done && isOurs()));
      }
    })();
    rival.catch(() => {});
    await eventually("the condition tells of it", () => ready()?.reason === "Contested");
    expect(ready()?.message).toMatch(/^Service apex: somebody else undoes/);
    const told = corrections();
    expect(told).toBeLessThanOrEqual(7);
    await eventually("it is tried again", () => corrections() > told);
    end.abort();
    await rival;
    expect(corrections()).toBeLessThanOrEqual(told + 2);
  },
);

cluster.ownTest("a lost node is told of, and its pod is not made a second time", async () => {
  const { world, lane } = await one();
  await lane.create();
  await lane.untilRest();
  const place = { namespace: lane.name, name: "apex-1" };
  const before = await world.client.get<KubeObject & { spec: { nodeName: string } }>(RESOURCES.pods, place);
  // What the control plane does to the pods of a node whose heartbeats have ended, and when they come again.
  const mark = (status: string) =>
    cluster.kubectl([
      ...["patch", "pod", "apex-1", "--namespace", lane.name, "--subresource=status", "--patch"],
      JSON.stringify({ status: { conditions: [{ type: "Ready", status }] } }),
    ]);
  await mark("False");
  await eventually("the condition names the node", () =>
    JSON.stringify(lane.pool?.status).includes(`1: node ${before.spec.nodeName} does not answer`),
  );
  const rows = lane.pool?.status?.instanceStatuses?.map(({ id, state }) => [id, state]);
  expect(rows).toEqual([
    ["0", "Ready"],
    ["1", "Failed"],
  ]);
  await lane.untilQuiet();
  expect(lane.outcome().deleted).toEqual({});
  await mark("True");
  await lane.untilRest();
  expect((await world.client.get<KubeObject>(RESOURCES.pods, place)).metadata.uid).toBe(before.metadata.uid);
});
