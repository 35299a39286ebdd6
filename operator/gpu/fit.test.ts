import { describe, expect, test } from "vitest";
import type { MemoryNeed } from "../../src/core/memory.ts";
import { type FitQuestion, judgeFit } from "./fit.ts";
import { deviceOffers, mayRunOn, nodeOffers } from "./offers.ts";

const GIB = 2 ** 30;
/** 20 GiB: 15 of weights, 4.5 of KV cache, half of context. */
const NEED: MemoryNeed = { weights: 15 * GIB, kv: 4.5 * GIB, context: GIB / 2, total: 20 * GIB };
const card = (gib: number | undefined, product = "H100") => ({
  node: "n",
  product,
  memory: gib === undefined ? undefined : gib * GIB,
  count: 8,
});

function judge({ gpu = {}, ...more }: Partial<Omit<FitQuestion, "gpu">> & { gpu?: Partial<FitQuestion["gpu"]> }) {
  return judgeFit({
    need: NEED,
    sessions: "4 sessions of 4096 tokens",
    gpu: { mode: "Exclusive", count: 1, instancesPerPod: 1, resource: "nvidia.com/gpu", ...gpu },
    spansCards: false,
    offers: [card(80)],
    ...more,
  });
}

describe("an instance on a card", () => {
  test("fits with its numbers", () => {
    expect(judge({})).toEqual({
      fits: true,
      message:
        "an instance takes 20.0 GiB (weights 15.0, KV cache of 4 sessions of 4096 tokens 4.5, CUDA context 0.5); H100 has 80.0 GiB",
    });
  });

  test("that is too large says so, with the cure", () => {
    expect(judge({ offers: [card(10, "slice")] })).toEqual({
      fits: false,
      message: expect.stringMatching(/; slice has 10.0 GiB: write a smaller contextTokens or sessionsPerInstance/),
    });
  });

  test("is measured by the largest card that is offered", () => {
    expect(judge({ offers: [card(16, "T4"), card(80), card(undefined)] }).message).toMatch(/; H100 has 80.0 GiB$/);
  });

  test("is unknown without a size of the one or the other, and the numbers that are known are said", () => {
    expect(judge({ need: undefined }).fits).toBeUndefined();
    expect(judge({ offers: [card(undefined)] })).toEqual({
      fits: undefined,
      message: expect.stringMatching(
        /^an instance takes 20.0 GiB .*; no node says how much memory nvidia.com\/gpu has$/,
      ),
    });
    expect(judge({ offers: undefined }).message).toMatch(
      /; this operator may not read nodes, which say how much memory nvidia.com\/gpu has$/,
    );
    const need = { ...NEED, kv: undefined, total: 15.5 * GIB };
    expect(judge({ need })).toEqual({ fits: true, message: expect.stringMatching(/weights 15.0, KV cache not known/) });
  });
});

test.each([
  {
    name: "four fit on one card",
    gpu: { instancesPerPod: 4 },
    fits: true,
    says: /, 4 of them 80.0 GiB; H100 has 80.0/,
  },
  { name: "five do not", gpu: { instancesPerPod: 5 }, fits: false, says: /5 of them 100.0 GiB.*: write fewer inst/ },
  {
    name: "five on two cards, three at most on one",
    gpu: { instancesPerPod: 5, count: 2 },
    fits: true,
    says: /3 of them 60/,
  },
])("Packed: $name", ({ gpu, fits, says }) => {
  expect(judge({ gpu: { mode: "Packed", ...gpu } })).toEqual({ fits, message: expect.stringMatching(says) });
});

test("an engine that spreads one process over its cards has the room of all of them", () => {
  const gpu = { count: 2 };
  expect(judge({ gpu, offers: [card(16)], spansCards: true })).toMatchObject({ fits: true, message: /2 x 16.0 GiB/ });
  expect(judge({ gpu, offers: [card(16)] }).fits).toBe(false);
});

const node = (name: string, labels: Record<string, string>, allocatable: Record<string, string>) => ({
  metadata: { name, labels },
  status: { allocatable },
});
const H100 = { "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559" };

test.each([
  { name: "whole cards", resource: "nvidia.com/gpu", labels: H100, mib: 81_559, product: "NVIDIA-H100-80GB-HBM3" },
  {
    name: "MIG slices by their own labels",
    resource: "nvidia.com/mig-1g.10gb",
    labels: { ...H100, "nvidia.com/mig-1g.10gb.memory": "9728", "nvidia.com/mig-1g.10gb.product": "H100-MIG-1g.10gb" },
    mib: 9728,
    product: "H100-MIG-1g.10gb",
  },
  {
    name: "replicas of time-slicing or MPS by their part",
    resource: "nvidia.com/gpu",
    labels: { ...H100, "nvidia.com/gpu.replicas": "4" },
    mib: 81_559 / 4,
    product: "NVIDIA-H100-80GB-HBM3",
  },
  {
    name: "replicas that are renamed",
    resource: "nvidia.com/gpu.shared",
    labels: { ...H100, "nvidia.com/gpu.replicas": "2" },
    mib: 81_559 / 2,
    product: "NVIDIA-H100-80GB-HBM3",
  },
])("a node offers $name", ({ resource, labels, mib, product }) => {
  const nodes = [node("a", labels, { [resource]: "8" }), node("b", labels, { [resource]: "0" })];
  expect(nodeOffers(nodes, resource)).toEqual([{ node: "a", product, memory: mib * 2 ** 20, count: 8 }]);
});

test("a card of whose memory no label tells is offered all the same", () => {
  expect(nodeOffers([node("a", {}, { "amd.com/gpu": "2" })], "amd.com/gpu")).toEqual([
    { node: "a", product: "amd.com/gpu", memory: undefined, count: 2 },
  ]);
});

test("drivers publish devices with their memory", () => {
  const device = (name: string, capacity?: Record<string, { value: string }>) => ({
    name,
    attributes: { productName: { string: "NVIDIA H100" } },
    ...(capacity && { capacity }),
  });
  const spec = {
    nodeName: "a",
    driver: "gpu.nvidia.com",
    pool: { name: "a", generation: 1, resourceSliceCount: 1 },
    devices: [device("gpu-0", { memory: { value: "80Gi" } }), device("gpu-1")],
  };
  expect(deviceOffers([{ spec }])).toEqual([{ node: "a", product: "NVIDIA H100", memory: 80 * GIB, count: 1 }]);
});

test("nodes that the pods do not want are not counted", () => {
  const term = (...matchExpressions: { key: string; operator: string; values?: string[] }[]) => ({
    affinity: {
      nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [{ matchExpressions }] } },
    },
  });
  const labels = { zone: "a", "nvidia.com/gpu.memory": "81559" };
  expect(mayRunOn(labels, {})).toBe(true);
  expect(mayRunOn(labels, { nodeSelector: { zone: "b" } })).toBe(false);
  expect(mayRunOn(labels, term({ key: "zone", operator: "In", values: ["a", "b"] }))).toBe(true);
  expect(mayRunOn(labels, term({ key: "zone", operator: "NotIn", values: ["a"] }))).toBe(false);
  expect(mayRunOn(labels, term({ key: "arch", operator: "Exists" }))).toBe(false);
  expect(mayRunOn(labels, term({ key: "nvidia.com/gpu.memory", operator: "Gt", values: ["40000"] }))).toBe(true);
});
