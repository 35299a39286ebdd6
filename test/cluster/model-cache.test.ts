import { expect } from "vitest";
import type { KubeObject } from "../../src/kube/object.ts";
import { clusterForTests } from "../support/cluster.ts";
import { conditionOf } from "../support/conditions.ts";
import { eventually } from "../support/eventually.ts";
import { FACTS } from "../support/loaders.ts";
import { operate, pools, stub, until } from "../support/pools.ts";

const cluster = await clusterForTests();
cluster.installCrd();
const { poolOf, untilCondition, ownedObjects, podUids, eventsOf } = pools(cluster);

const pool = (uri = "hf://org/repo/m.gguf", spec: object = {}) =>
  stub({ backend: "llama-cpp", instances: 3, model: { uri, cache: { storage: "40Gi" } }, ...spec });

interface LoaderPod extends KubeObject {
  spec: { containers: { image: string; args: string[] }[] };
}

/** The pod of the loader of this URI, once it runs. */
function loaderOf(namespace: string, uri = "hf://org/repo/m.gguf"): Promise<LoaderPod> {
  const args = ["get", "pods", "--namespace", namespace, "--output", "json"];
  return eventually(`a loader of ${uri} runs`, async () => {
    const { items } = JSON.parse(
      await cluster.kubectl([
        ...args,
        "--selector",
        "app.kubernetes.io/component=loader",
        "--field-selector=status.phase=Running",
      ]),
    ) as { items: LoaderPod[] };
    return items.find(({ spec }) => spec.containers[0]?.args.includes(uri));
  });
}

/** What a kubelet would write of the loader's container. */
async function play(namespace: string, { metadata, spec }: LoaderPod, phase: string, container: object): Promise<void> {
  const image = spec.containers[0]?.image;
  const status = { name: "loader", image, imageID: "", ready: false, restartCount: 0, ...container };
  const conditions = ["Ready", "ContainersReady"].map((type) => ({ type, status: "False" }));
  const patch = JSON.stringify({ status: { phase, conditions, containerStatuses: [status] } });
  const args = ["patch", "pod", metadata.name, "--namespace", namespace, "--subresource=status", "--patch", patch];
  await cluster.kubectl(args);
}

const succeed = (namespace: string, loader: LoaderPod, message = JSON.stringify(FACTS)) =>
  play(namespace, loader, "Succeeded", { state: { terminated: { exitCode: 0, reason: "Completed", message } } });

const fail = (namespace: string, loader: LoaderPod, reason: string, msg: string) =>
  play(namespace, loader, "Running", {
    restartCount: 2,
    state: { waiting: { reason: "CrashLoopBackOff", message: "back-off 20s" } },
    lastState: {
      terminated: { exitCode: 1, reason: "Error", message: JSON.stringify({ level: "error", reason, msg }) },
    },
  });

const named = (objects: string[], kind: string) => objects.filter((name) => name.startsWith(`${kind}/`));

cluster.ownTest(
  "one loader fills the volume before any instance is there, and its facts become a ConfigMap",
  async () => {
    const namespace = await cluster.namespace();
    await cluster.kubectl(["label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"]);
    await cluster.addFakeNodes({ count: 1 });
    await operate(cluster, namespace);
    const writes = await cluster.recordWrites();
    await cluster.apply([pool()], namespace);
    const loader = await loaderOf(namespace);
    const waiting = await untilCondition(namespace, "ModelAvailable", "Unknown", "Loading");
    expect(conditionOf(waiting, "Ready")?.message).toMatch(/^0 of 3 .* into claim apex-model$/);
    expect((await podUids(namespace)).size).toBe(0);
    expect(named(await ownedObjects(namespace), "StatefulSet")).toEqual([]);
    expect(named(await ownedObjects(namespace), "Job")).toHaveLength(1);

    await succeed(namespace, loader);
    const ready = await untilCondition(namespace, "Ready", "True");
    expect(conditionOf(ready, "ModelAvailable")?.status).toBe("True");
    expect((await podUids(namespace)).size).toBe(3);
    const [facts = ""] = named(await ownedObjects(namespace), "ConfigMap");
    const { data } = await cluster.get<KubeObject & { data: object }>(
      "configmap",
      facts.split("/")[1] ?? "",
      namespace,
    );
    expect(data).toEqual(Object.fromEntries(Object.entries(FACTS).map(([name, value]) => [name, String(value)])));
    const { spec } = await cluster.get<LoaderPod>("pod", "apex-0", namespace);
    expect(JSON.stringify(spec)).toContain(`/var/lib/llmpool/cache/${FACTS.path}`);

    // Each object was written once, the status a few times, and a finished loader that is removed is not made again.
    const mine = async () =>
      (await writes()).filter(
        ({ userAgent, resource }) => userAgent.startsWith("llmpool-operator/") && !/^(leases|events)/.test(resource),
      );
    await until("the pool is at rest", async () => {
      expect(conditionOf(await poolOf(namespace), "Progressing")?.status).toBe("False");
    });
    const before = await mine();
    const objects = await ownedObjects(namespace);
    expect(before.filter(({ resource }) => !resource.startsWith("llmpools"))).toHaveLength(objects.length);
    expect(before.filter(({ resource }) => resource.startsWith("llmpools")).length).toBeLessThanOrEqual(6);
    await cluster.kubectl(["delete", "jobs", "--all", "--namespace", namespace]);
    await cluster.kubectl(["annotate", "llmp/apex", "looked=again", "--namespace", namespace]);
    await until("the Lease is renewed again and again", async () => {
      expect((await writes()).filter(({ resource }) => resource.startsWith("leases")).length).toBeGreaterThan(2);
    });
    expect(await mine()).toEqual(before);
  },
);

cluster.ownTest("a model that cannot be had is a condition with its cause, and costs no running instance", async () => {
  const namespace = await cluster.namespace();
  await cluster.addFakeNodes({ count: 1 });
  await operate(cluster, namespace);
  await cluster.apply([pool()], namespace);
  await succeed(namespace, await loaderOf(namespace));
  await untilCondition(namespace, "Ready", "True");
  const before = await podUids(namespace);
  const [firstFacts] = named(await ownedObjects(namespace), "ConfigMap");

  await cluster.apply([pool("hf://org/none/m.gguf")], namespace);
  const words = "org/none@main is not there: check model.uri";
  await fail(namespace, await loaderOf(namespace, "hf://org/none/m.gguf"), "ModelNotFound", words);
  const failed = await untilCondition(namespace, "ModelAvailable", "False", "ModelNotFound");
  expect(conditionOf(failed, "ModelAvailable")?.message).toBe(`hf://org/none/m.gguf cannot be loaded: ${words}`);
  expect([conditionOf(failed, "Ready")?.status, conditionOf(failed, "Stalled")?.reason]).toEqual([
    "True",
    "ModelNotFound",
  ]);
  expect(await podUids(namespace)).toEqual(before);
  await until("an Event says so too", async () => {
    expect(await eventsOf(namespace)).toContain(
      `Warning ModelNotFound: hf://org/none/m.gguf cannot be loaded: ${words}`,
    );
  });
  // It can still be scaled, with the model that it has.
  await cluster.apply([pool("hf://org/none/m.gguf", { instances: 4 })], namespace);
  await until("a pod more", async () => {
    expect((await podUids(namespace)).size).toBe(4);
  });
  for (const [name, uid] of before) expect((await podUids(namespace)).get(name)).toBe(uid);

  // An edit heals it: one that can be had rolls out, and what belonged to the others goes.
  await cluster.apply([pool("hf://org/better/m.gguf", { instances: 4 })], namespace);
  await succeed(namespace, await loaderOf(namespace, "hf://org/better/m.gguf"));
  await until("every pod has the new model", async () => {
    const healed = await untilCondition(namespace, "Progressing", "False", "Complete");
    expect(conditionOf(healed, "ModelAvailable")?.status).toBe("True");
    for (const uid of (await podUids(namespace)).values()) expect([...before.values()]).not.toContain(uid);
  });
  const left = await ownedObjects(namespace);
  expect(named(left, "Job")).toHaveLength(1);
  expect(named(left, "ConfigMap")).toHaveLength(1);
  expect(left).not.toContain(firstFacts);
});

cluster.ownTest("a loader that heals by itself is all that a waiting pool needs", async () => {
  const namespace = await cluster.namespace();
  await cluster.addFakeNodes({ count: 1 });
  await operate(cluster, namespace);
  await cluster.apply([pool()], namespace);
  const loader = await loaderOf(namespace);
  await fail(namespace, loader, "ModelDownloadFailed", "org/repo answers 401: give a token that may read it");
  const failed = await untilCondition(namespace, "Ready", "False", "Failed");
  expect(conditionOf(failed, "Ready")?.message).toMatch(/^0 of 3 instances ready; 0: .*answers 401: give a token/);
  expect(conditionOf(failed, "Stalled")?.status).toBe("True");
  // The kubelet starts it again, and now it may.
  await succeed(namespace, loader);
  await untilCondition(namespace, "Ready", "True");
});

cluster.ownTest("with its facts a model's room on the cards is known, KV caches counted", async () => {
  const namespace = await cluster.namespace();
  await cluster.addFakeNodes({ count: 1 });
  await cluster.addFakeNodes({ count: 1, gpus: 8 });
  await operate(cluster, namespace, { wide: true });
  const spec = { gpu: {}, instances: 2, sessionsPerInstance: 4, contextTokens: 4096 };
  await cluster.apply([pool(undefined, spec)], namespace);
  const loader = await loaderOf(namespace);
  await untilCondition(namespace, "Schedulable", "Unknown", "SizeUnknown");
  await succeed(namespace, loader);
  const fits = await untilCondition(namespace, "Schedulable", "True", "Ready");
  expect(conditionOf(fits, "Schedulable")?.message).toMatch(
    /takes 7[.]1 GiB \(weights 4[.]6, KV cache of 4 sessions of 4096 tokens 2[.]0, CUDA context 0[.]5\); NVIDIA-H100-80GB-HBM3 has 79[.]6 GiB$/,
  );
  // A longer context asks for more than the card has; that is said, and the pods are replaced all the same.
  await cluster.apply([pool(undefined, { ...spec, sessionsPerInstance: 16, contextTokens: 131_072 })], namespace);
  const tight = await untilCondition(namespace, "Schedulable", "False", "InsufficientGpuMemory");
  expect(conditionOf(tight, "Schedulable")?.message).toMatch(
    /KV cache of 16 sessions of 131072 tokens 256[.]0.* has 79[.]6 GiB: write a smaller contextTokens or sessionsPerInstance/,
  );
  await until("an Event says so", async () => {
    expect(await eventsOf(namespace)).toContainEqual(
      expect.stringMatching(/^Warning InsufficientGpuMemory: an instance/),
    );
  });
});
