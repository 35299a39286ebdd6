import { expect } from "vitest";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";

const cluster = await clusterForTests();
cluster.installCrd();

const stub = (name: string, spec: object = {}) => ({
  apiVersion: "llmpool.dev/v1alpha1",
  kind: "LLMPool",
  metadata: { name },
  spec: { backend: "stub", ...spec },
});

cluster.test("kubectl explain shows what a field is for", async () => {
  // The API server publishes a new kind's schema a moment after it serves the kind.
  const text = await eventually("kubectl knows the kind", () =>
    cluster.kubectl(["explain", "llmpool.spec.drainSeconds"]),
  );
  expect(text).toMatch(/KIND:\s+LLMPool/);
  expect(text).toMatch(/FIELD: drainSeconds <integer>/);
  expect(text).toMatch(/DESCRIPTION:\n\s+\S/);
});

cluster.test("the API server fills in the defaults of the smallest pool", async () => {
  const namespace = await cluster.namespace();
  await cluster.apply([stub("apex")], namespace);
  const { spec } = await cluster.get<{ spec: Record<string, unknown> }>("llmp", "apex", namespace);
  expect(spec).toMatchObject({
    instances: 5,
    contextTokens: 4096,
    sessionsPerInstance: 4,
    requestTimeoutSeconds: 180,
    warmupPrompt: "test",
    rebindAfterSeconds: 30,
    drainSeconds: 180,
    sessionTTLSeconds: 7200,
    episodes: { timeoutSeconds: 1800, progressExtendSeconds: 120, maxTimeoutSeconds: 3600 },
    router: { replicas: 1, queuePerInstance: 64, maxBodyMiB: 8, auth: { mode: "None" } },
  });
  for (const absent of ["roles", "variants", "gpu", "store"]) expect(spec).not.toHaveProperty(absent);
});

cluster.test("kubectl get shows the columns, and more of them when asked wide", async () => {
  const namespace = await cluster.namespace();
  await cluster.apply([stub("apex")], namespace);
  const narrow = await cluster.kubectl(["get", "llmp", "--namespace", namespace]);
  expect(narrow.split("\n")[0]?.trim().split(/\s+/)).toEqual([
    "NAME",
    "BACKEND",
    "READY",
    "INSTANCES",
    "STATUS",
    "URL",
    "AGE",
  ]);
  const wide = await cluster.kubectl(["get", "llm", "--namespace", namespace, "--output", "wide"]);
  expect(wide.split("\n")[0]?.trim().split(/\s+/)).toEqual([
    ...["NAME", "BACKEND", "READY", "INSTANCES", "STATUS", "URL", "AGE", "MODEL", "CONTEXT", "MESSAGE"],
  ]);
});

cluster.test("kubectl scale sets the number of instances", async () => {
  const namespace = await cluster.namespace();
  await cluster.apply([stub("apex")], namespace);
  await cluster.kubectl(["scale", "llmpool/apex", "--replicas=3", "--namespace", namespace]);
  const { spec } = await cluster.get<{ spec: { instances: number } }>("llmp", "apex", namespace);
  expect(spec.instances).toBe(3);
});

cluster.test("the API server refuses what a rule forbids, with the rule's words", async () => {
  const namespace = await cluster.namespace();
  const pool = stub("apex", { instances: 2, roles: [{ name: "planner", instance: 2 }] });
  await expect(cluster.apply([pool], namespace)).rejects.toThrow(/instance/);
  await expect(cluster.apply([{ ...stub("apex"), spec: { backend: "hf-cuda" } }], namespace)).rejects.toThrow(/model/);
});

cluster.ownTest("a kept record names each write, who made it and how it ended", async () => {
  const namespace = await cluster.namespace();
  const writes = await cluster.recordWrites();
  await cluster.apply([stub("apex")], namespace);
  await cluster.kubectl(["get", "llmp", "--namespace", namespace]);
  expect((await writes()).filter((write) => write.namespace === namespace)).toMatchObject([
    { user: "admin", verb: "patch", resource: "llmpools.llmpool.dev", name: "apex", code: 201 },
  ]);
});
