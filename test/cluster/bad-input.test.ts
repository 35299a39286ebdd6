import { expect, onTestFinished } from "vitest";
import { clusterForTests } from "../support/cluster.ts";
import { conditionOf } from "../support/conditions.ts";
import { operate, pools, stub, until } from "../support/pools.ts";

const cluster = await clusterForTests();
cluster.installCrd();
const { untilCondition, eventsOf } = pools(cluster);

cluster.ownTest(
  "a quota that forbids pods is a condition in the quota's words, and heals when it goes",
  async () => {
    const namespace = await cluster.namespace();
    await cluster.addFakeNodes({ count: 1 });
    const quota = {
      apiVersion: "v1",
      kind: "ResourceQuota",
      metadata: { name: "small" },
      spec: { hard: { pods: "0" } },
    };
    await cluster.apply([quota], namespace);
    await until("the quota counts", async () => {
      const { status } = await cluster.get<{ status?: { hard?: object } }>("resourcequota", "small", namespace);
      expect(status?.hard).toEqual({ pods: "0" });
    });
    await operate(cluster, namespace);
    await cluster.apply([stub()], namespace);
    const pool = await untilCondition(namespace, "Ready", "False", "PodsRefused");
    expect(conditionOf(pool, "InstancesReady")?.message).toMatch(/^0 of 2 .*exceeded quota: small.*limited: pods=0/);
    expect(conditionOf(pool, "RouterReady")).toMatchObject({
      reason: "PodsRefused",
      message: expect.stringMatching(/exceeded quota: small/),
    });
    expect(conditionOf(pool, "Stalled")?.reason).toBe("PodsRefused");
    await until("an Event says so", async () => {
      expect(await eventsOf(namespace)).toContainEqual(expect.stringMatching(/^Warning PodsRefused: .*exceeded quota/));
    });
    await cluster.kubectl(["delete", "resourcequota", "small", "--namespace", namespace]);
    await untilCondition(namespace, "Ready", "True");
  },
  200_000,
);

cluster.ownTest(
  "a quota that forbids one of the pool's objects lets the others be made, and is named",
  async () => {
    const namespace = await cluster.namespace();
    await cluster.addFakeNodes({ count: 1 });
    const hard = { "count/networkpolicies.networking.k8s.io": "0" };
    const quota = { apiVersion: "v1", kind: "ResourceQuota", metadata: { name: "none" }, spec: { hard } };
    await cluster.apply([quota], namespace);
    await until("the quota counts", async () => {
      const { status } = await cluster.get<{ status?: { hard?: object } }>("resourcequota", "none", namespace);
      expect(status?.hard).toEqual(hard);
    });
    await operate(cluster, namespace);
    await cluster.apply([stub()], namespace);
    const pool = await untilCondition(namespace, "Ready", "False", "ApplyFailed");
    expect(conditionOf(pool, "Ready")?.message).toMatch(/^NetworkPolicy apex: .*exceeded quota: none/);
    await untilCondition(namespace, "InstancesReady", "True");
    await untilCondition(namespace, "Progressing", "False", "ApplyFailed");
    await cluster.kubectl(["delete", "resourcequota", "none", "--namespace", namespace]);
    await untilCondition(namespace, "Ready", "True");
    await untilCondition(namespace, "Progressing", "False", "Complete");
  },
  200_000,
);

cluster.ownTest(
  "a volume that cannot be made is a condition with its cause, and heals when it can",
  async () => {
    const namespace = await cluster.namespace();
    await cluster.addFakeNodes({ count: 1 });
    await operate(cluster, namespace);
    const storageClassName = `class-of-${namespace}`;
    const model = { uri: "hf://org/repo/m.gguf", cache: { storage: "1Gi", storageClassName } };
    await cluster.apply([stub({ backend: "llama-cpp", model })], namespace);
    const pool = await untilCondition(namespace, "Schedulable", "False", "VolumeUnbound");
    const words = new RegExp(`claim apex-model has no volume: .*"${storageClassName}" not found`);
    expect(conditionOf(pool, "Schedulable")?.message).toMatch(words);
    expect(conditionOf(pool, "Ready")).toMatchObject({
      reason: "VolumeUnbound",
      message: expect.stringMatching(words),
    });
    onTestFinished(async () => {
      await cluster.kubectl(["delete", "persistentvolume", storageClassName, "--wait=false"]);
    });
    const volume = {
      apiVersion: "v1",
      kind: "PersistentVolume",
      metadata: { name: storageClassName },
      spec: {
        storageClassName,
        capacity: { storage: "1Gi" },
        accessModes: ["ReadWriteMany"],
        hostPath: { path: "/nowhere" },
      },
    };
    await cluster.apply([volume]);
    // The volume controller looks again every quarter of a minute.
    await untilCondition(namespace, "Ready", "False", "Loading", 120_000);
  },
  200_000,
);

cluster.ownTest(
  "a claim that is not there is named, and is used once it is",
  async () => {
    const namespace = await cluster.namespace();
    await cluster.addFakeNodes({ count: 1 });
    await operate(cluster, namespace);
    await cluster.apply([stub({ backend: "llama-cpp", model: { uri: "pvc://models/m.gguf" } })], namespace);
    const pool = await untilCondition(namespace, "Ready", "False", "Unschedulable");
    expect(conditionOf(pool, "Schedulable")?.message).toMatch(/persistentvolumeclaim "models" not found/);
    const spec = { accessModes: ["ReadWriteMany"], resources: { requests: { storage: "1Gi" } } };
    await cluster.apply(
      [{ apiVersion: "v1", kind: "PersistentVolumeClaim", metadata: { name: "models" }, spec }],
      namespace,
    );
    await untilCondition(namespace, "Ready", "True");
  },
  200_000,
);

cluster.ownTest(
  "a Secret of our name that is not ours is not read, not touched, and named",
  async () => {
    const namespace = await cluster.namespace();
    await cluster.addFakeNodes({ count: 1 });
    const secret = {
      apiVersion: "v1",
      kind: "Secret",
      metadata: { name: "apex-token" },
      stringData: { token: "theirs" },
    };
    await cluster.apply([secret], namespace);
    const before = await cluster.get("secret", "apex-token", namespace);
    await operate(cluster, namespace);
    await cluster.apply([stub()], namespace);
    const pool = await untilCondition(namespace, "Ready", "False", "ObjectTaken");
    expect(conditionOf(pool, "Ready")?.message).toMatch(/^Secret apex-token is there already .* rename or delete it/);
    expect(await cluster.get("secret", "apex-token", namespace)).toEqual(before);
    await cluster.kubectl(["delete", "secret", "apex-token", "--namespace", namespace]);
    await untilCondition(namespace, "Ready", "True");
  },
  200_000,
);
