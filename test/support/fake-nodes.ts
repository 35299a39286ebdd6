import { FAKE_NODE } from "../../scripts/cluster/kwok.ts";

export interface FakeNodes {
  count: number;
  /** Cards of each node, offered as `nvidia.com/gpu`; 0 makes plain nodes. */
  gpus?: number;
  /** As GPU feature discovery writes it. */
  product?: string;
  /** Of one card. */
  memoryMiB?: number;
  /** Slices that each node offers besides its whole cards, by profile: `{ "1g.10gb": 7 }` is `nvidia.com/mig-1g.10gb: 7`. */
  mig?: Readonly<Record<string, number>>;
  /** The cards as a ResourceSlice for claims (DRA), of driver and device class `gpu.nvidia.com`, instead of as `nvidia.com/gpu`. */
  devices?: boolean;
  labels?: Readonly<Record<string, string>>;
  /** Without it a node with cards is kept for pods that tolerate `nvidia.com/gpu`, as clusters usually have it. */
  taints?: readonly { key: string; value?: string; effect: string }[];
}

/** The class that claims for fake cards name. */
export const DEVICE_CLASS = "gpu.nvidia.com";

export function hasCards({ gpus = 0, mig = {} }: FakeNodes): boolean {
  return gpus > 0 || Object.keys(mig).length > 0;
}

/** A node that KWOK plays, as the NVIDIA device plugin and GPU feature discovery would show a real one. */
export function fakeNode(name: string, wanted: FakeNodes): unknown {
  const { gpus = 0, product = "NVIDIA-H100-80GB-HBM3", memoryMiB = 81559, mig = {}, devices = false } = wanted;
  const slices = Object.entries(mig).map(([profile, count]) => [`nvidia.com/mig-${profile}`, String(count)]);
  const whole = gpus > 0 && !devices ? [["nvidia.com/gpu", String(gpus)]] : [];
  const size = {
    cpu: "128",
    memory: "1Ti",
    pods: "110",
    "ephemeral-storage": "1Ti",
    ...Object.fromEntries([...whole, ...slices]),
  };
  const cards = {
    "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.product": product,
    "nvidia.com/gpu.memory": String(memoryMiB),
    "nvidia.com/gpu.count": String(gpus),
    "nvidia.com/mig.capable": "true",
    ...(slices.length > 0 && { "nvidia.com/mig.strategy": "mixed" }),
    ...Object.fromEntries(
      Object.keys(mig).map((profile) => [`nvidia.com/mig-${profile}.memory`, String(sliceMiB(profile))]),
    ),
  };
  const taints =
    wanted.taints ?? (hasCards(wanted) ? [{ key: "nvidia.com/gpu", value: "present", effect: "NoSchedule" }] : []);
  return {
    apiVersion: "v1",
    kind: "Node",
    metadata: {
      name,
      annotations: FAKE_NODE,
      labels: {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        ...(hasCards(wanted) && cards),
        ...wanted.labels,
      },
    },
    spec: { taints },
    status: { capacity: size, allocatable: size },
  };
}

/** `1g.10gb` has 10 GB. */
function sliceMiB(profile: string): number {
  return Number(/\.(\d+)gb/.exec(profile)?.[1] ?? 0) * 1024;
}

export const deviceClass = {
  apiVersion: "resource.k8s.io/v1",
  kind: "DeviceClass",
  metadata: { name: DEVICE_CLASS },
  spec: { selectors: [{ cel: { expression: `device.driver == "${DEVICE_CLASS}"` } }] },
};

/** The cards of a node as the NVIDIA DRA driver publishes them. */
export function resourceSlice(
  node: string,
  { gpus = 0, product = "NVIDIA H100 80GB HBM3", memoryMiB = 81559 }: FakeNodes,
): unknown {
  const devices = Array.from({ length: gpus }, (_, i) => ({
    name: `gpu-${i}`,
    attributes: { type: { string: "gpu" }, productName: { string: product }, architecture: { string: "Hopper" } },
    capacity: { memory: { value: `${memoryMiB}Mi` } },
  }));
  return {
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceSlice",
    metadata: { name: `${node}-gpu` },
    spec: { nodeName: node, driver: DEVICE_CLASS, pool: { name: node, generation: 1, resourceSliceCount: 1 }, devices },
  };
}
