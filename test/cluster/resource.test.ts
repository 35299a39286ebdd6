import { expect, onTestFinished } from "vitest";
import { LLMPOOLS } from "../../operator/kinds.ts";
import { Client } from "../../src/kube/client.ts";
import { Connection } from "../../src/kube/connection.ts";
import { ApiError } from "../../src/kube/errors.ts";
import { fromKubeconfig } from "../../src/kube/kubeconfig.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { BROKEN_RULES } from "../fixtures/broken-rules.ts";
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

cluster.test("kubectl scale is refused where it would take a role its instance", async () => {
  const namespace = await cluster.namespace();
  const pool = stub("apex");
  await cluster.apply(
    [{ ...pool, spec: { ...pool.spec, instances: 3, roles: [{ name: "a", instance: 2 }] } }],
    namespace,
  );
  await expect(cluster.kubectl(["scale", "llmpool/apex", "--replicas=2", "--namespace", namespace])).rejects.toThrow(
    /roles\[\]\.instance is not below its variant's instances/,
  );
  const { spec } = await cluster.get<{ spec: { instances: number } }>("llmp", "apex", namespace);
  expect(spec.instances).toBe(3);
});

cluster.test(
  "the API server refuses the manifests of every rule, with the rule's words at the rule's field",
  async () => {
    const connection = new Connection({
      credentials: fromKubeconfig(cluster.kubeconfig),
      clock: systemClock,
      userAgent: "test",
    });
    onTestFinished(() => connection.close());
    const client = new Client({ connection, clock: systemClock, resources: [LLMPOOLS] });
    for (const { path, message, manifest } of BROKEN_RULES) {
      const object = manifest as unknown as KubeObject;
      const pool = { ...object, metadata: { ...object.metadata, namespace: "default" } };
      const refused = await client.create(pool, { dryRun: true }).catch((error: unknown) => error);
      if (!(refused instanceof ApiError)) throw new Error(`taken: ${JSON.stringify(manifest)}`);
      // A list-map refuses a name that is used twice by itself, besides.
      const causes = refused.details.causes?.filter(({ reason }) => reason !== "FieldValueDuplicate");
      expect([manifest, causes]).toEqual([
        manifest,
        [{ reason: "FieldValueInvalid", field: path || "<nil>", message: expect.stringMatching(/^Invalid value: /) }],
      ]);
      expect(causes?.[0]?.message?.endsWith(`: ${message}`) && refused.status).toBe(422);
    }
  },
);

cluster.ownTest("a kept record names each write, who made it and how it ended", async () => {
  const namespace = await cluster.namespace();
  const writes = await cluster.recordWrites();
  await cluster.apply([stub("apex")], namespace);
  await cluster.kubectl(["get", "llmp", "--namespace", namespace]);
  expect((await writes()).filter((write) => write.namespace === namespace)).toMatchObject([
    { user: "admin", verb: "patch", resource: "llmpools.llmpool.dev", name: "apex", code: 201 },
  ]);
});
