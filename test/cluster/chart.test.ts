import { expect } from "vitest";
import type { KubeObject } from "../../src/kube/object.ts";
import { CHART, install, rendered } from "../support/chart.ts";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";

const cluster = await clusterForTests();

const POOL = {
  apiVersion: "llmpool.dev/v1alpha1",
  kind: "LLMPool",
  metadata: { name: "apex" },
  spec: { backend: "stub" },
};

/** `kind/name` of what Helm has put into the namespace and beside it. */
async function released(namespace: string): Promise<string[]> {
  const shown = await cluster.kubectl([
    ...[
      "get",
      "deployments,services,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,poddisruptionbudgets",
    ],
    ...["--selector=app.kubernetes.io/managed-by=Helm,app.kubernetes.io/instance=llmpool", "--namespace", namespace],
    ...["--output", "json"],
  ]);
  const { items } = JSON.parse(shown) as { items: KubeObject[] };
  return items.map(({ kind, metadata }) => `${kind}/${metadata.name}`).sort();
}

cluster.test("helm has nothing to find fault with", async () => {
  expect(await cluster.helm(["lint", CHART, "--strict"])).toContain("1 chart(s) linted, 0 chart(s) failed");
});

cluster.test("the API server takes every object of the chart without a warning", async () => {
  const namespace = await cluster.namespace();
  await cluster.kubectl(["label", "namespace", namespace, "pod-security.kubernetes.io/warn=restricted"]);
  const objects = [...(await rendered(cluster, { replicas: 2 }, namespace)).values()].map((object) =>
    object.metadata.annotations?.["helm.sh/hook"] === undefined ? object : undefined,
  );
  const list = { apiVersion: "v1", kind: "List", items: objects.filter((object) => object !== undefined) };
  // Strict: a field that Kubernetes does not know, or that is there twice, is an error. A pod that breaks the standard is a warning.
  const said = await cluster.kubectl(
    ["apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "--filename", "-"],
    {
      input: JSON.stringify(list),
    },
  );
  expect(said.trim().split("\n")).toHaveLength(list.items.length);
});

cluster.test("what is installed is upgraded, rolled back and uninstalled; the kind and the pools stay", async () => {
  const namespace = await cluster.namespace();
  await install(cluster, namespace);
  const first = await released(namespace);
  expect(first).toEqual([
    `ClusterRole/${namespace}-llmpool`,
    `ClusterRole/${namespace}-llmpool-cards`,
    `ClusterRole/${namespace}-llmpool-edit`,
    `ClusterRole/${namespace}-llmpool-view`,
    `ClusterRoleBinding/${namespace}-llmpool`,
    `ClusterRoleBinding/${namespace}-llmpool-cards`,
    "Deployment/llmpool",
    "Role/llmpool-lease",
    "RoleBinding/llmpool-lease",
    "Service/llmpool-metrics",
    "ServiceAccount/llmpool",
  ]);
  await cluster.kubectl(["wait", "--for=condition=Established", "crd/llmpools.llmpool.dev", "--timeout=30s"]);
  await cluster.apply([POOL], namespace);
  const { metadata } = await cluster.get<KubeObject>("llmp", "apex", namespace);

  await cluster.helm([
    "upgrade",
    "llmpool",
    CHART,
    "--namespace",
    namespace,
    "--set",
    "replicas=2,metrics.service=false",
  ]);
  const second = await released(namespace);
  expect(second).toContain("PodDisruptionBudget/llmpool");
  expect(second).not.toContain("Service/llmpool-metrics");
  await cluster.helm(["rollback", "llmpool", "1", "--namespace", namespace]);
  expect(await released(namespace)).toEqual(first);

  await cluster.helm(["uninstall", "llmpool", "--namespace", namespace]);
  expect(await released(namespace)).toEqual([]);
  expect((await cluster.get<KubeObject>("llmp", "apex", namespace)).metadata.uid).toBe(metadata.uid);

  await cluster.helm(["install", "llmpool", CHART, "--namespace", namespace]);
  expect(await released(namespace)).toEqual(first);
  expect((await cluster.get<KubeObject>("llmp", "apex", namespace)).metadata.uid).toBe(metadata.uid);
});

cluster.test("the notes are commands that work", async () => {
  const namespace = await cluster.namespace();
  await install(cluster, namespace, { watchNamespace: namespace });
  const notes = await cluster.helm(["get", "notes", "llmpool", "--namespace", namespace]);
  expect(notes).toContain(`looks after the pools of namespace ${namespace}`);
  const manifest = /<<END\n(.*?)\n *END/s.exec(notes)?.[1] ?? "";
  await cluster.kubectl(["wait", "--for=condition=Established", "crd/llmpools.llmpool.dev", "--timeout=30s"]);
  await cluster.kubectl(["apply", "--filename", "-"], { input: manifest.replaceAll(/^ {2}/gm, "") });
  expect((await cluster.get<KubeObject>("llmp", "apex", namespace)).metadata.name).toBe("apex");
});

cluster.test("whoever may view or edit a namespace may do the same with its pools", async () => {
  const namespace = await cluster.namespace();
  await install(cluster, namespace, { replicas: 0 });
  const may = async (user: string, verb: string, resource: string) => {
    const [name, subresource] = resource.split("/");
    const review = {
      apiVersion: "authorization.k8s.io/v1",
      kind: "SubjectAccessReview",
      spec: { user, resourceAttributes: { group: "llmpool.dev", resource: name, subresource, verb, namespace } },
    };
    const input = JSON.stringify(review);
    const answer = await cluster.kubectl(["create", "--filename", "-", "--output", "json"], { input });
    return (JSON.parse(answer) as { status: { allowed: boolean } }).status.allowed;
  };
  for (const role of ["view", "edit"])
    await cluster.kubectl([
      "create",
      "rolebinding",
      role,
      `--clusterrole=${role}`,
      `--user=${role}er`,
      "--namespace",
      namespace,
    ]);
  await eventually("Kubernetes has added them to its roles", () => may("editer", "create", "llmpools"));
  await eventually("Kubernetes has added them to its roles", () => may("viewer", "watch", "llmpools"));
  expect(await may("editer", "patch", "llmpools/scale")).toBe(true);
  expect(await may("viewer", "patch", "llmpools")).toBe(false);
  expect(await may("editer", "patch", "llmpools/status")).toBe(false);
  expect(await may("nobody", "get", "llmpools")).toBe(false);
});

cluster.test(
  "a kind that kubectl has applied is taken over when it is asked for, and left alone where it is not installed",
  async () => {
    const [first, second] = [await cluster.namespace(), await cluster.namespace()];
    await cluster.applyCrd();
    await expect(install(cluster, first, { watchNamespace: first })).rejects.toThrow(
      /cannot be imported into the current release/,
    );
    await install(cluster, first, { watchNamespace: first }, ["--take-ownership"]);
    // Another release beside it, for another namespace.
    const others = { watchNamespace: second, "crds.install": false, "rbac.aggregate": false };
    await install(cluster, second, others);
    expect((await released(second)).filter((name) => !name.startsWith("Cluster"))).toEqual([
      ...[
        "Deployment/llmpool",
        "Role/llmpool",
        "Role/llmpool-lease",
        "RoleBinding/llmpool",
        "RoleBinding/llmpool-lease",
      ],
      ...["Service/llmpool-metrics", "ServiceAccount/llmpool"],
    ]);
  },
);
