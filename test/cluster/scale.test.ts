import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "vitest";
import type { LLMPoolStatus } from "../../src/api/llmpool.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import { customMetrics } from "../support/metrics-api.ts";
import { operatorAccount, startOperator } from "../support/operator.ts";
import { tempDir } from "../support/temp-dir.ts";

const cluster = await clusterForTests();
cluster.installCrd();

type Pool = KubeObject & { spec: { instances: number }; status?: LLMPoolStatus };

const pool = (spec: object = {}) => ({
  apiVersion: "llmpool.dev/v1alpha1",
  kind: "LLMPool",
  metadata: { name: "apex" },
  spec: { backend: "stub", instances: 2, drainSeconds: 0, store: { ephemeral: true }, ...spec },
});

/** A namespace whose pools an operator looks after, and a fake node. */
async function operated(): Promise<string> {
  const namespace = await cluster.namespace();
  await cluster.addFakeNodes({ count: 1 });
  startOperator({
    kubeconfig: await operatorAccount(cluster, namespace, namespace),
    ownNamespace: namespace,
    namespace,
  });
  return namespace;
}

const kubectl = (namespace: string, ...args: string[]) => cluster.kubectl([...args, "--namespace", namespace]);

async function readyCount(namespace: string): Promise<number | undefined> {
  const { status } = await cluster.get<Pool>("llmp", "apex", namespace);
  const ready = status?.conditions?.find(({ type }) => type === "Ready");
  return ready?.status === "True" ? status?.readyInstances : undefined;
}

const autoscaler = (minReplicas: number, maxReplicas: number, metric = "none") => ({
  apiVersion: "autoscaling/v2",
  kind: "HorizontalPodAutoscaler",
  metadata: { name: "apex" },
  spec: {
    scaleTargetRef: { apiVersion: "llmpool.dev/v1alpha1", kind: "LLMPool", name: "apex" },
    minReplicas,
    maxReplicas,
    metrics: [
      { type: "Pods", pods: { metric: { name: metric }, target: { type: "AverageValue", averageValue: "2" } } },
    ],
    behavior: { scaleDown: { stabilizationWindowSeconds: 0 } },
  },
});

cluster.ownTest("a HorizontalPodAutoscaler sets the instances and sees the pool's own pods", async () => {
  const namespace = await operated();
  await cluster.apply([pool()], namespace);
  await kubectl(namespace, "wait", "llmp/apex", "--for=condition=Ready", "--timeout=60s");
  await cluster.apply([autoscaler(4, 6)], namespace);
  await eventually("raised to its minimum", async () => (await readyCount(namespace)) === 4);
  await kubectl(namespace, "scale", "llmp/apex", "--replicas=9");
  await eventually("lowered to its maximum", async () => (await readyCount(namespace)) === 6);
  await kubectl(namespace, "wait", "hpa/apex", "--for=jsonpath={.status.currentReplicas}=6", "--timeout=60s");
});

cluster.nodeTest("a HorizontalPodAutoscaler follows what the pods of the default variant measure", async () => {
  const namespace = await operated();
  const roles = [{ name: "coder", variant: "code" }];
  await cluster.apply([pool({ roles, variants: [{ name: "code", instances: 3 }] })], namespace);
  await kubectl(namespace, "wait", "llmp/apex", "--for=condition=Ready", "--timeout=60s");
  let sessions = 8;
  // What the other variant does is no reason for more of the default one.
  const total = (pods: readonly string[]) => (pods.some((name) => name.startsWith("apex-code-")) ? 1000 : sessions);
  const { selectors } = await customMetrics(cluster, namespace, "llmpool_sessions", total);
  await cluster.apply([autoscaler(1, 8, "llmpool_sessions")], namespace);
  await eventually("two sessions each", async () => (await readyCount(namespace)) === 4);
  const { spec, status } = await cluster.get<Pool>("llmp", "apex", namespace);
  expect(spec.instances).toBe(4);
  expect(selectors()).toEqual(new Set([status?.selector]));
  sessions = 4;
  await eventually("two sessions each again", async () => (await readyCount(namespace)) === 2);
  const scale = ["get", "--raw", `/apis/llmpool.dev/v1alpha1/namespaces/${namespace}/llmpools/apex/scale`];
  expect(JSON.parse(await cluster.kubectl(scale))).toMatchObject({
    spec: { replicas: 2 },
    status: { replicas: 2, selector: status?.selector },
  });
});

cluster.ownTest("kubectl shows how a pool is, waits for it, and learns of every change of its", async () => {
  const namespace = await operated();
  await cluster.apply([pool({ contextTokens: 512 })], namespace);
  await kubectl(namespace, "wait", "llmp/apex", "--for=condition=Ready", "--timeout=60s");
  const [head = "", row = ""] = (await kubectl(namespace, "get", "llmp", "--output=wide")).trim().split("\n");
  // Columns stand below their heads; a cell may hold spaces.
  const at = (name: string) => head.search(new RegExp(`\\b${name}\\b`));
  const cell = (name: string) => row.slice(at(name)).split(/ {2,}/)[0]?.trim();
  expect(["NAME", "BACKEND", "READY", "INSTANCES", "STATUS", "URL", "CONTEXT", "MESSAGE"].map(cell)).toEqual([
    ...["apex", "stub", "2", "2", "Ready", `http://apex.${namespace}.svc:8080`, "512", "2 of 2 instances ready"],
  ]);
  await kubectl(namespace, "scale", "llmp/apex", "--replicas=0");
  await kubectl(namespace, "wait", "llmp/apex", "--for=jsonpath={.status.readyInstances}=0", "--timeout=60s");
  expect(await kubectl(namespace, "get", "llmp")).toMatch(/^apex +stub +0 +0 +ScaledToZero /m);
});

/** A chart of one pool: Helm waits for what it installs by the rules of kstatus. */
async function chartOf(object: object): Promise<string> {
  const dir = await tempDir();
  await mkdir(join(dir, "templates"));
  await writeFile(join(dir, "Chart.yaml"), "apiVersion: v2\nname: pool\nversion: 1.0.0\n");
  await writeFile(join(dir, "templates", "pool.yaml"), JSON.stringify(object));
  return dir;
}

cluster.ownTest("who waits by the rules of kstatus goes on when the pool is ready", async () => {
  const namespace = await operated();
  await cluster.helm(["install", "p", await chartOf(pool()), "--namespace", namespace, "--wait", "--timeout=60s"]);
  expect(await readyCount(namespace)).toBe(2);
  // An edit makes it unready until the pods are others: a stale Ready counts for nothing.
  const before = await kubectl(namespace, "get", "pods", "--output=jsonpath={.items[*].metadata.uid}");
  const edited = await chartOf(pool({ contextTokens: 512 }));
  await cluster.helm(["upgrade", "p", edited, "--namespace", namespace, "--wait", "--timeout=60s"]);
  const after = await kubectl(
    namespace,
    "get",
    "pods",
    "--selector=app.kubernetes.io/component=instance",
    "--output=jsonpath={.items[*].metadata.uid}",
  );
  expect(after.split(" ")).toHaveLength(2);
  for (const uid of after.split(" ")) expect(before).not.toContain(uid);
});

cluster.ownTest("who waits by the rules of kstatus is told that a pool waits for a person", async () => {
  const namespace = await operated();
  const taken = { apiVersion: "v1", kind: "Service", metadata: { name: "apex" }, spec: { ports: [{ port: 1 }] } };
  await cluster.apply([taken], namespace);
  const install = ["install", "p", await chartOf(pool()), "--namespace", namespace, "--wait", "--timeout=20s"];
  await expect(cluster.helm(install)).rejects.toThrow(/LLMPool.*apex.*(Failed|ObjectTaken)/s);
});
