import { expect } from "vitest";
import type { KubeObject } from "../../src/kube/object.ts";
import { CHART, install, valueFlags } from "../support/chart.ts";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import { buildImages } from "../support/images.ts";

const cluster = await clusterForTests();

const POOL = {
  apiVersion: "llmpool.dev/v1alpha1",
  kind: "LLMPool",
  metadata: { name: "apex" },
  spec: { backend: "stub", instances: 2, drainSeconds: 0, store: { ephemeral: true } },
};

/** `http://<address>:<port>` of a Service, as this machine reaches it. */
async function addressOf(service: string, namespace: string): Promise<string> {
  const { spec } = await cluster.get<{ spec: { clusterIP: string; ports: { port: number }[] } }>(
    "service",
    service,
    namespace,
  );
  return `http://${spec.clusterIP}:${spec.ports[0]?.port}`;
}

async function podUids(namespace: string, selector: string): Promise<Record<string, string | undefined>> {
  const args = ["get", "pods", "--namespace", namespace, "--selector", selector, "--output", "json"];
  const { items } = JSON.parse(await cluster.kubectl(args)) as { items: KubeObject[] };
  return Object.fromEntries(items.map(({ metadata }) => [metadata.name, metadata.uid]));
}

cluster.nodeTest(
  "an installed chart passes helm test, changes its operator under a running pool, and leaves it serving when it goes",
  async () => {
    const { registry } = await buildImages(cluster);
    const namespace = await cluster.namespace();
    await cluster.kubectl(["label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"]);
    const values = { "image.registry": registry, replicas: 2 };
    await install(cluster, namespace, values, ["--wait", "--timeout=120s"]);

    const said = await cluster.helm(["test", "llmpool", "--namespace", namespace, "--logs", "--timeout=150s"]);
    expect(said).toMatch(/Phase:\s+Succeeded/);
    expect(said).toMatch(/http:\/\/test-llmpool\..*:8080\/v1\/chat\/completions answered: \S/);
    // The pool of the test is gone with it.
    expect(await cluster.kubectl(["get", "llmp", "--namespace", namespace, "--output=name"])).toBe("");

    await cluster.apply([POOL], namespace);
    await cluster.kubectl(["wait", "llmp/apex", "--for=condition=Ready", "--timeout=100s", "--namespace", namespace]);
    const before = await podUids(namespace, "llmpool.dev/pool=apex");
    expect(Object.keys(before)).toHaveLength(3);
    const operators = "app.kubernetes.io/component=operator";
    const first = await podUids(namespace, operators);
    const upgrade = { ...values, podAnnotations: { looked: "again" } };
    await cluster.helm([
      ...["upgrade", "llmpool", CHART, "--namespace", namespace, "--wait", "--timeout=120s"],
      ...valueFlags(upgrade),
    ]);
    await eventually("the old operators are gone", async () =>
      Object.keys(await podUids(namespace, operators)).every((name) => !(name in first)),
    );
    await cluster.kubectl(["scale", "llmp/apex", "--replicas=3", "--namespace", namespace]);
    await eventually("the new operator works", async () => {
      const { status } = await cluster.get<{ status: { readyInstances: number } }>("llmp", "apex", namespace);
      return status.readyInstances === 3;
    });
    expect(await podUids(namespace, "llmpool.dev/pool=apex")).toMatchObject(before);
    const metrics = await (await fetch(`${await addressOf("llmpool-metrics", namespace)}/metrics`)).text();
    expect(metrics).toMatch(/^informer_synced\{resource="llmpools"\} 1$/m);

    await cluster.helm(["uninstall", "llmpool", "--namespace", namespace, "--wait"]);
    const answer = await fetch(`${await addressOf("apex", namespace)}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "planner", messages: [{ role: "user", content: "Still there?" }] }),
    });
    expect(answer.status).toBe(200);
    // Owner references clean up without an operator.
    await cluster.kubectl(["delete", "llmp", "apex", "--namespace", namespace]);
    await eventually(
      "its pods are gone",
      async () => Object.keys(await podUids(namespace, "llmpool.dev/pool=apex")).length === 0,
    );
  },
  400_000,
);
