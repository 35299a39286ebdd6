import { expect } from "vitest";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import { DEVICE_CLASS } from "../support/fake-nodes.ts";

const cluster = await clusterForTests();

interface Pod {
  spec: { nodeName?: string };
  status: { phase: string; conditions?: { type: string; status: string; reason?: string; message?: string }[] };
}

const pod = (name: string, resources: object, spec: object = {}) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name },
  spec: { containers: [{ name: "instance", image: "llmpool.test/none", resources }], ...spec },
});

const gpus = (count: number, resource = "nvidia.com/gpu") => ({ limits: { [resource]: count } });

function placed(name: string, namespace: string): Promise<Pod> {
  return eventually(`${name} is running`, async () => {
    const found = await cluster.get<Pod>("pod", name, namespace);
    return found.status.phase === "Running" && found;
  });
}

/** Why the scheduler cannot place it. */
function refused(name: string, namespace: string): Promise<string> {
  return eventually(`${name} is found impossible`, async () => {
    const { status } = await cluster.get<Pod>("pod", name, namespace);
    return status.conditions?.find((c) => c.type === "PodScheduled" && c.reason === "Unschedulable")?.message;
  });
}

cluster.ownTest(
  "pods that ask for a GPU share out the cards of the H100 nodes, and one card too many has no place",
  async () => {
    const namespace = await cluster.namespace();
    const nodes = await cluster.addFakeNodes({ count: 2, gpus: 8 });
    const labels = await cluster.kubectl(["get", "node", nodes[0] ?? "", "--output", "jsonpath={.metadata.labels}"]);
    expect(JSON.parse(labels)).toMatchObject({
      "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
      "nvidia.com/gpu.memory": "81559",
    });
    await cluster.apply([pod("a", gpus(8)), pod("b", gpus(8))], namespace);
    const homes = [await placed("a", namespace), await placed("b", namespace)].map(({ spec }) => spec.nodeName);
    expect(new Set(homes)).toEqual(new Set(nodes));
    await cluster.apply([pod("c", gpus(1))], namespace);
    expect(await refused("c", namespace)).toMatch(/nodes are available: .*Insufficient nvidia.com\/gpu/);
  },
);

cluster.ownTest("a MIG slice is a resource of its own", async () => {
  const namespace = await cluster.namespace();
  const [node] = await cluster.addFakeNodes({ count: 1, mig: { "1g.10gb": 7 } });
  const tolerant = { tolerations: [{ key: "nvidia.com/gpu", operator: "Exists" }] };
  await cluster.apply(
    [pod("slice", gpus(7, "nvidia.com/mig-1g.10gb"), tolerant), pod("card", gpus(1), tolerant)],
    namespace,
  );
  expect((await placed("slice", namespace)).spec.nodeName).toBe(node);
  expect(await refused("card", namespace)).toMatch(/Insufficient nvidia.com\/gpu/);
});

cluster.ownTest("a resource claim takes a card of the slice that a node publishes", async () => {
  const namespace = await cluster.namespace();
  const [node] = await cluster.addFakeNodes({ count: 1, gpus: 1, devices: true });
  const memory = `device.capacity["${DEVICE_CLASS}"].memory.compareTo(quantity("79Gi")) >= 0`;
  const request = { deviceClassName: DEVICE_CLASS, selectors: [{ cel: { expression: memory } }] };
  const template = {
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceClaimTemplate",
    metadata: { name: "one-card" },
    spec: { spec: { devices: { requests: [{ name: "card", exactly: request }] } } },
  };
  const claiming = (name: string) =>
    pod(
      name,
      { claims: [{ name: "card" }] },
      {
        resourceClaims: [{ name: "card", resourceClaimTemplateName: "one-card" }],
        tolerations: [{ key: "nvidia.com/gpu", operator: "Exists" }],
      },
    );
  await cluster.apply([template, claiming("first")], namespace);
  expect((await placed("first", namespace)).spec.nodeName).toBe(node);
  await cluster.apply([claiming("second")], namespace);
  expect(await refused("second", namespace)).toMatch(/cannot allocate all claims/);
});

cluster.ownTest("pods without a GPU go to a fake node without cards, and to no other", async () => {
  const namespace = await cluster.namespace();
  const [plain] = await cluster.addFakeNodes({ count: 1 });
  await cluster.addFakeNodes({ count: 1, gpus: 8 });
  const names = ["a", "b", "c", "d", "e", "f"];
  await cluster.apply(
    names.map((name) => pod(name, {})),
    namespace,
  );
  for (const name of names) expect((await placed(name, namespace)).spec.nodeName).toBe(plain);
});

cluster.ownTest("a claim without a class gets a volume, in every access mode", async () => {
  const namespace = await cluster.namespace();
  const modes = ["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"];
  const claim = (mode: string) => ({
    apiVersion: "v1",
    kind: "PersistentVolumeClaim",
    metadata: { name: mode.toLowerCase() },
    spec: { accessModes: [mode], resources: { requests: { storage: "1Gi" } } },
  });
  await cluster.apply(modes.map(claim), namespace);
  for (const mode of modes) {
    await cluster.kubectl([
      "wait",
      `pvc/${mode.toLowerCase()}`,
      "--for=jsonpath={.status.phase}=Bound",
      "--namespace",
      namespace,
    ]);
  }
});
