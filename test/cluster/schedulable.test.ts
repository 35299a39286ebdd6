import { expect } from "vitest";
import type { KubeObject } from "../../src/kube/object.ts";
import { clusterForTests } from "../support/cluster.ts";
import { conditionOf } from "../support/conditions.ts";
import { DEVICE_CLASS } from "../support/fake-nodes.ts";
import { operate, type Pool, stub, until } from "../support/pools.ts";

const cluster = await clusterForTests();
cluster.installCrd();

const MIB = (memoryMiB: number) => ({ uri: "hf://org/repo", memoryMiB });
const on = (kind: string) => ({ spec: { nodeSelector: { kind } } });
const claim = (name: string) => ({ mode: "Packed", instancesPerPod: 2, resourceClaimTemplateName: name });

/** One pool each, on nodes with H100 cards of 81559 MiB (79.6 GiB), MIG slices of 10 GiB, and cards shared by four. */
const CASES: { name: string; spec: object; reason: string; says: RegExp }[] = [
  {
    name: "exclusive",
    spec: { gpu: { runtimeClassName: "nvidia" }, model: MIB(30_000), instances: 2, podTemplate: on("whole") },
    reason: "Ready",
    says: /^every pod has a node; an instance takes 29[.]8 GiB \(weights 29[.]3, .*\); NVIDIA-H100-80GB-HBM3 has 79[.]6 GiB$/,
  },
  {
    name: "exclusive-large",
    spec: { gpu: {}, model: MIB(90_000), podTemplate: on("whole") },
    reason: "InsufficientGpuMemory",
    says: /takes 88[.]4 GiB .* has 79[.]6 GiB: write a smaller model, or larger cards$/,
  },
  {
    name: "exclusive-many",
    spec: { gpu: { count: 16 }, model: MIB(1_000), podTemplate: on("whole") },
    reason: "Unschedulable",
    says: /exclusive-many-0: 0\/\d+ nodes are available: .*Insufficient nvidia[.]com\/gpu.* \(1 pod asks for 16 nvidia[.]com\/gpu each, and nodes that they may run on offer 16\)/,
  },
  {
    name: "packed",
    spec: { gpu: { mode: "Packed", instancesPerPod: 5 }, model: MIB(10_000), instances: 5, podTemplate: on("whole") },
    reason: "Ready",
    says: /, 5 of them 51[.]3 GiB; NVIDIA-H100-80GB-HBM3 has 79[.]6 GiB$/,
  },
  {
    name: "packed-large",
    spec: { gpu: { mode: "Packed", instancesPerPod: 5 }, model: MIB(20_000), instances: 5, podTemplate: on("whole") },
    reason: "InsufficientGpuMemory",
    says: /, 5 of them 100[.]2 GiB; .* has 79[.]6 GiB: write fewer instancesPerPod/,
  },
  {
    name: "mig",
    spec: { gpu: { resource: "nvidia.com/mig-1g.10gb" }, model: MIB(8_000), instances: 2 },
    reason: "Ready",
    says: /takes 8[.]3 GiB .* has 10[.]0 GiB$/,
  },
  {
    name: "mig-large",
    spec: { gpu: { resource: "nvidia.com/mig-1g.10gb" }, model: MIB(12_000) },
    reason: "InsufficientGpuMemory",
    says: /takes 12[.]2 GiB .* has 10[.]0 GiB: /,
  },
  {
    name: "mig-none",
    spec: { gpu: { resource: "nvidia.com/mig-7g.80gb" }, model: MIB(12_000) },
    reason: "Unschedulable",
    says: /Insufficient nvidia[.]com\/mig-7g[.]80gb.* \(1 pod asks for 1 nvidia[.]com\/mig-7g[.]80gb each, and .* offer 0\)/,
  },
  {
    name: "time-slicing",
    spec: { gpu: {}, model: MIB(15_000), instances: 4, podTemplate: on("sliced") },
    reason: "Ready",
    says: /takes 15[.]1 GiB .*-SHARED has 19[.]9 GiB$/,
  },
  {
    name: "mps-large",
    spec: { gpu: {}, model: MIB(30_000), podTemplate: on("mps") },
    reason: "InsufficientGpuMemory",
    says: /takes 29[.]8 GiB .* has 19[.]9 GiB: /,
  },
  {
    name: "claim",
    spec: { gpu: claim("one"), model: MIB(30_000) },
    reason: "Ready",
    says: /, 2 of them 59[.]6 GiB; NVIDIA H100 80GB HBM3 has 79[.]6 GiB$/,
  },
  {
    name: "claim-large",
    spec: { gpu: claim("one"), model: MIB(50_000) },
    reason: "InsufficientGpuMemory",
    says: /, 2 of them 98[.]7 GiB; .* has 79[.]6 GiB: /,
  },
  {
    name: "claim-many",
    spec: { gpu: claim("many"), model: MIB(1_000) },
    reason: "Unschedulable",
    says: /cannot allocate all claims.* \(1 pod asks for 9 devices by a claim each, and .* offer 4\)/,
  },
  {
    name: "unknown",
    spec: { gpu: {}, model: { uri: "hf://org/repo" }, podTemplate: on("whole") },
    reason: "SizeUnknown",
    says: /^every pod has a node; the model's size is not known: give model[.]cache, or model[.]memoryMiB$/,
  },
];

const template = (name: string, count: number) => ({
  apiVersion: "resource.k8s.io/v1",
  kind: "ResourceClaimTemplate",
  metadata: { name },
  spec: { spec: { devices: { requests: [{ name: "gpu", exactly: { deviceClassName: DEVICE_CLASS, count } }] } } },
});

interface Placed extends KubeObject {
  spec: {
    nodeName?: string;
    runtimeClassName?: string;
    topologySpreadConstraints?: object[];
    containers: { volumeMounts?: { mountPath: string }[] }[];
  };
}

cluster.ownTest(
  "every GPU mode is placed and measured by the cards that there are, in numbers",
  async () => {
    const namespace = await cluster.namespace();
    await cluster.addFakeNodes({ count: 1 });
    await cluster.addFakeNodes({ count: 2, gpus: 8, labels: { kind: "whole" } });
    await cluster.addFakeNodes({ count: 1, mig: { "1g.10gb": 7 } });
    const shared = { "nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-SHARED" };
    await cluster.addFakeNodes({ count: 1, gpus: 4, labels: { ...shared, kind: "sliced" } });
    await cluster.addFakeNodes({
      count: 1,
      gpus: 4,
      labels: { ...shared, "nvidia.com/gpu.sharing-strategy": "mps", kind: "mps" },
    });
    await cluster.addFakeNodes({ count: 1, gpus: 4, devices: true });
    const runtimeClass = {
      apiVersion: "node.k8s.io/v1",
      kind: "RuntimeClass",
      metadata: { name: "nvidia" },
      handler: "nvidia",
    };
    await cluster.apply([runtimeClass, template("one", 1), template("many", 9)], namespace);
    await operate(cluster, namespace, { wide: true });
    const pools = CASES.map(({ name, spec }) => {
      const { kind, apiVersion, spec: common } = stub({ backend: "hf-cuda", instances: 1, ...spec });
      return { apiVersion, kind, metadata: { name }, spec: common };
    });
    await cluster.apply(pools, namespace);
    const args = ["get", "llmp", "--namespace", namespace, "--output", "json"];
    await until(
      "every pool says where it stands",
      async () => {
        const { items } = JSON.parse(await cluster.kubectl(args)) as { items: Pool[] };
        const said = items.map((pool) => {
          const found = conditionOf(pool, "Schedulable");
          return { name: pool.metadata.name, reason: found?.reason, says: found?.message };
        });
        expect(said).toEqual(
          CASES.map(({ name, reason, says }) => ({ name, reason, says: expect.stringMatching(says) })).toSorted(
            (a, b) => (a.name < b.name ? -1 : 1),
          ),
        );
      },
      200_000,
    );

    // What the pods bring along: runtime class, a place of their own each, shared memory.
    const placed = [
      await cluster.get<Placed>("pod", "exclusive-0", namespace),
      await cluster.get<Placed>("pod", "exclusive-1", namespace),
    ];
    expect(new Set(placed.map(({ spec }) => spec.nodeName)).size).toBe(2);
    expect(placed[0]?.spec).toMatchObject({ runtimeClassName: "nvidia", topologySpreadConstraints: [{ maxSkew: 1 }] });
    expect(placed[0]?.spec.containers[0]?.volumeMounts).toContainEqual({ name: "shm", mountPath: "/dev/shm" });

    // Another card is news; a node's heartbeats are none.
    await cluster.addFakeNodes({
      count: 1,
      gpus: 1,
      memoryMiB: 143_771,
      product: "NVIDIA-H200",
      labels: { kind: "whole" },
    });
    await until("the larger card is seen", async () => {
      const large = await cluster.get<Pool>("llmp", "exclusive-large", namespace);
      expect(conditionOf(large, "Schedulable")).toMatchObject({
        status: "True",
        message: expect.stringMatching(/H200 has 140/),
      });
    });
  },
  400_000,
);

cluster.ownTest("an operator that may not read nodes says so, and its pool runs", async () => {
  const namespace = await cluster.namespace();
  await cluster.addFakeNodes({ count: 1 });
  await cluster.addFakeNodes({ count: 1, gpus: 8 });
  await operate(cluster, namespace);
  await cluster.apply([stub({ backend: "hf-cuda", gpu: {}, model: MIB(10_000) })], namespace);
  await until("Schedulable has the reason", async () => {
    const pool = await cluster.get<Pool>("llmp", "apex", namespace);
    expect(conditionOf(pool, "Schedulable")).toMatchObject({
      status: "Unknown",
      reason: "SizeUnknown",
      message: expect.stringMatching(
        /^every pod has a node; an instance takes 10[.]3 GiB .*; this operator may not read nodes, which say how much memory nvidia[.]com\/gpu has$/,
      ),
    });
    expect(conditionOf(pool, "Ready")).toMatchObject({ status: "True" });
  });
});
