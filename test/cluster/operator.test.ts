import { expect, onTestFinished } from "vitest";
import type { KubeObject } from "../../src/kube/object.ts";
import { clusterForTests } from "../support/cluster.ts";
import { conditionOf } from "../support/conditions.ts";
import { eventually } from "../support/eventually.ts";
import { installPodMonitors, removePodMonitors } from "../support/pod-monitors.ts";
import { operate as operateOn, pools, stub, until } from "../support/pools.ts";

const cluster = await clusterForTests();
cluster.installCrd();
const { poolOf, untilCondition, ownedObjects, podUids } = pools(cluster);

const OPERATOR = "llmpool-operator/0.0.0-test";

const operate = (namespace: string, version?: string) =>
  operateOn(cluster, namespace, version === undefined ? {} : { version });
const untilReady = (namespace: string, status: "True" | "False", reason?: string) =>
  untilCondition(namespace, "Ready", status, reason);

cluster.ownTest(
  "a pool becomes its objects and Ready, an unchanged one causes no write, and a deleted one leaves nothing",
  async () => {
    const namespace = await cluster.namespace();
    await cluster.addFakeNodes({ count: 1 });
    await operate(namespace);
    const writes = await cluster.recordWrites();
    await cluster.apply([stub({ variants: [{ name: "code", instances: 1 }] })], namespace);
    const pool = await untilReady(namespace, "True", "Ready");

    expect(pool.status).toMatchObject({
      desiredInstances: 2,
      instances: 2,
      readyInstances: 2,
      url: `http://apex.${namespace}.svc:8080`,
      selector: "app.kubernetes.io/component=instance,llmpool.dev/pool=apex,llmpool.dev/variant=default",
    });
    expect(pool.status?.instanceStatuses?.map(({ id, pod, state }) => [id, pod, state])).toEqual([
      ["0", "apex-0", "Ready"],
      ["1", "apex-1", "Ready"],
      ["code-0", "apex-code-0", "Ready"],
    ]);
    await cluster.kubectl(["wait", "--for=condition=Ready", "--timeout=30s", "llmp/apex", "--namespace", namespace]);
    const objects = await ownedObjects(namespace);
    expect(objects).toEqual([
      "Deployment/apex",
      "NetworkPolicy/apex",
      "NetworkPolicy/apex-code",
      "PodDisruptionBudget/apex-instances",
      "PodDisruptionBudget/apex-router",
      "Role/apex",
      "RoleBinding/apex",
      "Secret/apex-token",
      "Service/apex",
      "Service/apex-instances",
      "ServiceAccount/apex",
      "StatefulSet/apex",
      "StatefulSet/apex-code",
    ]);

    const mine = async () =>
      (await writes()).filter(
        ({ userAgent, resource }) =>
          userAgent === OPERATOR && !resource.startsWith("leases") && !resource.startsWith("events"),
      );
    await until("the pool is at rest", async () => {
      expect(conditionOf(await poolOf(namespace), "Progressing")?.status).toBe("False");
    });
    const before = await mine();
    expect(before.filter(({ resource }) => !resource.startsWith("llmpools")).length).toBe(objects.length);
    expect(before.filter(({ resource }) => resource.startsWith("llmpools")).length).toBeLessThanOrEqual(4);
    // Makes the operator look again, at everything.
    await cluster.kubectl(["annotate", "llmp/apex", "looked=again", "--namespace", namespace]);
    await cluster.kubectl(["annotate", "statefulset/apex", "looked=again", "--namespace", namespace]);
    const renewed = (await writes()).length;
    await until("the operator goes on renewing its Lease", async () => {
      const leases = (await writes()).slice(renewed).filter(({ resource }) => resource.startsWith("leases"));
      expect(leases.length).toBeGreaterThan(2);
    });
    expect(await mine()).toEqual(before);

    await cluster.kubectl(["delete", "llmp", "apex", "--namespace", namespace]);
    await until("everything is gone", async () => {
      expect(await ownedObjects(namespace)).toEqual([]);
      expect((await podUids(namespace)).size).toBe(0);
    });
  },
);

cluster.ownTest("scaling touches no pod that stays; an edit replaces pods; what an edit leaves over goes", async () => {
  const namespace = await cluster.namespace();
  await cluster.addFakeNodes({ count: 1 });
  await operate(namespace);
  await cluster.apply([stub({ variants: [{ name: "code", instances: 1 }] })], namespace);
  await untilReady(namespace, "True");
  const first = await podUids(namespace, "llmpool.dev/variant=default");

  await cluster.kubectl(["scale", "llmp/apex", "--replicas=3", "--namespace", namespace]);
  const scaled = await untilReady(namespace, "True");
  expect(scaled.status?.readyInstances).toBe(3);
  const second = await podUids(namespace, "llmpool.dev/variant=default");
  expect([...second].filter(([name]) => first.has(name))).toEqual([...first]);

  await cluster.apply([stub({ instances: 3, contextTokens: 512 })], namespace);
  await until("every pod is another, and the variant is gone", async () => {
    const third = await podUids(namespace);
    expect([...third.keys()].sort()).toEqual(["apex-0", "apex-1", "apex-2"]);
    for (const uid of third.values()) expect([...second.values()]).not.toContain(uid);
  });
  await untilReady(namespace, "True");
  expect(await ownedObjects(namespace)).not.toContain("StatefulSet/apex-code");
});

cluster.ownTest("another release of the operator restarts no pod of an unchanged pool", async () => {
  const namespace = await cluster.namespace();
  await cluster.addFakeNodes({ count: 1 });
  const stop = await operate(namespace);
  await cluster.apply([stub()], namespace);
  await untilReady(namespace, "True");
  const before = await podUids(namespace, "llmpool.dev/pool=apex");
  await stop();

  await operate(namespace, "9.9.9");
  type Set = KubeObject & { spec: { template: { spec: { containers: { image: string }[] } } } };
  await until("the new release has written its image", async () => {
    const set = await cluster.get<Set>("statefulset", "apex", namespace);
    expect(set.spec.template.spec.containers[0]?.image).toBe("llmpool/llmpool:9.9.9");
  });
  await cluster.apply([stub({ budgets: { episodeTokens: 5 } })], namespace);
  await untilReady(namespace, "True");
  expect(await podUids(namespace, "llmpool.dev/pool=apex")).toEqual(before);
});

cluster.ownTest(
  "a foreign object is not touched, is named by the condition, and the pool heals when it goes",
  async () => {
    const namespace = await cluster.namespace();
    await cluster.addFakeNodes({ count: 1 });
    const foreign = {
      apiVersion: "v1",
      kind: "Service",
      metadata: { name: "apex" },
      spec: { ports: [{ port: 1 }], selector: { mine: "yes" } },
    };
    await cluster.apply([foreign], namespace);
    const before = await cluster.get<KubeObject & { spec: object }>("service", "apex", namespace);
    await operate(namespace);
    await cluster.apply([stub()], namespace);
    const pool = await untilReady(namespace, "False", "ObjectTaken");
    expect(conditionOf(pool, "Ready")?.message).toMatch(/^Service apex is there already .* rename or delete it/);
    expect(conditionOf(pool, "Stalled")?.status).toBe("True");
    expect(await cluster.get<KubeObject>("service", "apex", namespace)).toEqual(before);
    await cluster.kubectl(["delete", "service", "apex", "--namespace", namespace]);
    await untilReady(namespace, "True");
  },
);

cluster.ownTest("a pool that fits nowhere says so in the scheduler's words, and heals when a node comes", async () => {
  const namespace = await cluster.namespace();
  await cluster.addFakeNodes({ count: 1 });
  await operate(namespace);
  await cluster.apply([stub({ gpu: {} })], namespace);
  const pool = await untilReady(namespace, "False", "Unschedulable");
  expect(conditionOf(pool, "Schedulable")).toMatchObject({
    status: "False",
    message: expect.stringMatching(/Insufficient nvidia.com\/gpu/),
  });
  await cluster.addFakeNodes({ count: 1, gpus: 8 });
  await untilReady(namespace, "True");
});

cluster.ownTest("what someone changes of our fields is put back, and what is theirs stays", async () => {
  const namespace = await cluster.namespace();
  await cluster.addFakeNodes({ count: 1 });
  await operate(namespace);
  await cluster.apply([stub()], namespace);
  await untilReady(namespace, "True");
  await cluster.kubectl(["annotate", "service/apex", "theirs=yes", "--namespace", namespace]);
  await cluster.kubectl([
    "patch",
    "service/apex",
    "--namespace",
    namespace,
    "--patch",
    '{"spec":{"selector":{"x":"y"}}}',
  ]);
  await cluster.kubectl(["scale", "statefulset/apex", "--replicas=5", "--namespace", namespace]);
  await cluster.kubectl(["delete", "networkpolicy/apex", "--namespace", namespace]);
  await until("all is as before", async () => {
    const service = await cluster.get<KubeObject & { spec: { selector: object } }>("service", "apex", namespace);
    // A merge patch added a key, which server-side apply leaves to whom it belongs: our two are what they were.
    expect(service.spec.selector).toMatchObject({
      "llmpool.dev/pool": "apex",
      "app.kubernetes.io/component": "router",
    });
    expect(service.metadata.annotations?.theirs).toBe("yes");
    const set = await cluster.get<KubeObject & { spec: { replicas: number } }>("statefulset", "apex", namespace);
    expect(set.spec.replicas).toBe(2);
    expect(await ownedObjects(namespace)).toContain("NetworkPolicy/apex");
  });
});

cluster.ownTest(
  "pods of every kind meet the restricted standard, and the scheduler places them on H100 nodes",
  async () => {
    const namespace = await cluster.namespace();
    await cluster.kubectl(["label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"]);
    await cluster.addFakeNodes({ count: 1 });
    await cluster.addFakeNodes({ count: 1, gpus: 4, mig: { "1g.10gb": 7 } });
    await cluster.addFakeNodes({ count: 1, gpus: 2, devices: true });
    await operate(namespace);
    const template = {
      apiVersion: "resource.k8s.io/v1",
      kind: "ResourceClaimTemplate",
      metadata: { name: "card" },
      spec: { spec: { devices: { requests: [{ name: "gpu", exactly: { deviceClassName: "gpu.nvidia.com" } }] } } },
    };
    await cluster.apply([template], namespace);
    const spec = {
      backend: "hf-cuda",
      model: { uri: "hf://org/repo" },
      instances: 1,
      resources: { limits: { memory: "1536Mi", cpu: "500m" } },
      variants: [
        { name: "exclusive", instances: 2, gpu: { count: 1 } },
        { name: "mig", instances: 3, gpu: { resource: "nvidia.com/mig-1g.10gb" } },
        { name: "packed", instances: 7, gpu: { mode: "Packed", instancesPerPod: 5 } },
        { name: "claim", instances: 3, gpu: { mode: "Packed", instancesPerPod: 2, resourceClaimTemplateName: "card" } },
      ],
    };
    await cluster.apply([stub(spec)], namespace);
    await until("every pod has a node", async () => {
      const pool = await poolOf(namespace);
      expect(conditionOf(pool, "Schedulable")).toMatchObject({
        reason: "SizeUnknown",
        message: expect.stringMatching(/^every pod has a node; .*give model.cache, or model.memoryMiB/),
      });
      expect(conditionOf(pool, "Ready")?.reason).not.toBe("ApplyFailed");
    });
    expect([...(await podUids(namespace)).keys()].sort()).toEqual([
      "apex-0",
      "apex-claim-0",
      "apex-claim-1",
      "apex-exclusive-0",
      "apex-exclusive-1",
      "apex-mig-0",
      "apex-mig-1",
      "apex-mig-2",
      "apex-packed-0",
      "apex-packed-1",
    ]);
    // An amount that the server spells in its own way is no difference.
    const writes = await cluster.recordWrites();
    await cluster.kubectl(["annotate", "llmp/apex", "looked=again", "--namespace", namespace]);
    await until("the Lease is renewed again and again", async () => {
      expect((await writes()).filter(({ resource }) => resource.startsWith("leases")).length).toBeGreaterThan(2);
    });
    const mine = (await writes()).filter(({ userAgent }) => userAgent === OPERATOR);
    expect(mine.filter(({ resource }) => !/^(leases|events|llmpools)/.test(resource))).toEqual([]);
  },
);

cluster.ownTest("a bad change stops at one broken pod, and heals when it is reverted", async () => {
  const namespace = await cluster.namespace();
  await cluster.addFakeNodes({ count: 1 });
  await operate(namespace);
  await cluster.apply([stub({ instances: 3 })], namespace);
  await untilReady(namespace, "True");
  const before = await podUids(namespace);
  const stays = async () => {
    const now = await podUids(namespace);
    expect(["apex-0", "apex-1"].map((name) => now.get(name))).toEqual(
      ["apex-0", "apex-1"].map((name) => before.get(name)),
    );
    return now;
  };

  await cluster.apply([stub({ instances: 3, podTemplate: { spec: { nodeSelector: { nowhere: "yes" } } } })], namespace);
  await until("one pod is replaced, and has no node", async () => {
    const pool = await untilReady(namespace, "False", "Degraded");
    expect(pool.status?.instanceStatuses?.map(({ state }) => state)).toEqual(["Ready", "Ready", "Pending"]);
    expect(conditionOf(pool, "Ready")?.message).toMatch(/^2 of 3 instances ready; 2: .*node/);
    expect(conditionOf(pool, "Progressing")?.reason).toBe("RollingOut");
  });
  expect((await stays()).get("apex-2")).not.toBe(before.get("apex-2"));

  await cluster.apply([stub({ instances: 3 })], namespace);
  await untilReady(namespace, "True");
  await stays();
});

cluster.ownTest("the kind PodMonitor is used once the cluster has it, and let go when it loses it", async () => {
  const namespace = await cluster.namespace();
  await cluster.addFakeNodes({ count: 1 });
  onTestFinished(() => removePodMonitors(cluster));
  await operate(namespace);
  await cluster.apply([stub()], namespace);
  await untilReady(namespace, "True");
  for (const _ of ["once", "again"]) {
    await installPodMonitors(cluster);
    for (const name of ["apex-instances", "apex-router"])
      await eventually("it is there", () => cluster.get<KubeObject>("podmonitor", name, namespace));
    await removePodMonitors(cluster);
  }
  // A change now does not wait for monitors that nobody can make.
  await cluster.apply([stub({ instances: 3 })], namespace);
  expect((await untilReady(namespace, "True")).status?.readyInstances).toBe(3);
});
