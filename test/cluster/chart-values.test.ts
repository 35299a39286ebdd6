import { isDeepStrictEqual } from "node:util";
import type { V1Container, V1Deployment, V1PodSpec } from "@kubernetes/client-node";
import { expect, test } from "vitest";
import { renderPool } from "../../operator/render/render.ts";
import { defaultImages } from "../../operator/render/settings.ts";
import { chartValues } from "../../scripts/generate/chart/chart.ts";
import type { LLMPool } from "../../src/api/llmpool.ts";
import { packageVersion } from "../../src/cli/version.ts";
import { planPool } from "../../src/core/plan/plan.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { rendered } from "../support/chart.ts";
import { clusterForTests } from "../support/cluster.ts";
import { pool } from "../support/pool.ts";

const VERSION = packageVersion();
const cluster = await clusterForTests();

type Objects = Map<string, KubeObject>;
type Deployment = KubeObject & Pick<V1Deployment, "spec">;

function get<T extends KubeObject = KubeObject>(objects: Objects, name: string): T {
  const found = objects.get(name);
  if (!found) throw new Error(`no ${name} among ${[...objects.keys()].join(" ")}`);
  return found as T;
}
const deployment = (objects: Objects) => get<Deployment>(objects, "Deployment/llmpool");
const pod = (objects: Objects): V1PodSpec => deployment(objects).spec?.template.spec as V1PodSpec;
const container = (objects: Objects): V1Container => pod(objects).containers[0] as V1Container;
const imageOf = (name: string) => (objects: Objects) =>
  container(objects)
    .args?.find((arg) => arg.startsWith(`--image=${name}=`))
    ?.slice(`--image=${name}=`.length);
/** What `helm test` asks of its pool's pods, if it does so of the instances' and the router's alike. */
const ofTestPool = (objects: Objects) => {
  const { spec } = get<KubeObject & Pick<LLMPool, "spec">>(objects, "LLMPool/test-llmpool");
  return isDeepStrictEqual(spec.podTemplate, spec.router?.podTemplate) ? spec.podTemplate : "another for routers";
};
const has = (name: string) => (objects: Objects) => objects.has(name);
const account = (objects: Objects) => pod(objects).serviceAccountName;

/** For each value one that is not the default, where it shows, and what shows there. */
const ROWS: { path: string; value: unknown; shows: (objects: Objects) => unknown; want: unknown; with?: object }[] = [
  { path: "replicas", value: 2, shows: (o) => deployment(o).spec?.replicas, want: 2 },
  { path: "replicas", value: 2, shows: has("PodDisruptionBudget/llmpool"), want: true },
  {
    path: "watchNamespace",
    value: "team-a",
    shows: (o) => container(o).args?.includes("--namespace=team-a"),
    want: true,
  },
  {
    path: "watchNamespace",
    value: "team-a",
    shows: (o) => o.get("Role/llmpool")?.metadata.namespace,
    want: "team-a",
  },
  {
    path: "image.registry",
    value: "r.example/team/",
    shows: imageOf("router"),
    want: `r.example/team/llmpool/llmpool:${VERSION}`,
  },
  {
    path: "image.registry",
    value: "r.example",
    shows: imageOf("hf-cuda"),
    want: `r.example/llmpool/hf-cuda:${VERSION}`,
  },
  { path: "image.repository", value: "a/b", shows: (o) => container(o).image, want: `a/b:${VERSION}` },
  { path: "image.repository", value: "a/b", shows: imageOf("stub"), want: `a/b:${VERSION}` },
  { path: "image.tag", value: "1.10", shows: (o) => container(o).image, want: "llmpool/llmpool:1.10" },
  { path: "image.tag", value: "1.10", shows: imageOf("llama-cpp"), want: "llmpool/llama-cpp:1.10" },
  { path: "image.pullPolicy", value: "Never", shows: (o) => container(o).imagePullPolicy, want: "Never" },
  {
    path: "image.pullSecrets",
    value: [{ name: "registry" }],
    shows: (o) => pod(o).imagePullSecrets,
    want: [{ name: "registry" }],
  },
  {
    path: "image.pullSecrets",
    value: [{ name: "registry" }],
    shows: ofTestPool,
    want: { spec: { imagePullSecrets: [{ name: "registry" }] } },
  },
  { path: "runtimes.llama-cpp", value: "x/y:3", shows: imageOf("llama-cpp"), want: "x/y:3" },
  { path: "runtimes.hf-cuda", value: "x/y:3", shows: imageOf("hf-cuda"), want: "x/y:3" },
  {
    path: "crds.install",
    value: false,
    shows: has("CustomResourceDefinition/llmpools.llmpool.dev"),
    want: false,
  },
  { path: "rbac.create", value: false, shows: has("ClusterRoleBinding/llmpool-system-llmpool"), want: false },
  { path: "rbac.create", value: false, shows: has("RoleBinding/llmpool-lease"), want: false },
  { path: "rbac.aggregate", value: false, shows: has("ClusterRole/llmpool-system-llmpool-edit"), want: false },
  { path: "serviceAccount.create", value: false, shows: has("ServiceAccount/llmpool"), want: false },
  { path: "serviceAccount.create", value: false, shows: account, want: "default" },
  { path: "serviceAccount.name", value: "mine", shows: account, want: "mine" },
  { path: "serviceAccount.name", value: "mine", shows: has("ServiceAccount/mine"), want: true },
  {
    path: "serviceAccount.annotations",
    value: { a: "b" },
    shows: (o) => get(o, "ServiceAccount/llmpool").metadata.annotations,
    want: { a: "b" },
  },
  { path: "metrics.service", value: false, shows: has("Service/llmpool-metrics"), want: false },
  { path: "metrics.podMonitor.enabled", value: true, shows: has("PodMonitor/llmpool"), want: true },
  {
    path: "metrics.podMonitor.labels",
    value: { release: "prometheus" },
    with: { "metrics.podMonitor.enabled": true },
    shows: (o) => o.get("PodMonitor/llmpool")?.metadata.labels?.release,
    want: "prometheus",
  },
  {
    path: "resources",
    value: { limits: { memory: "1Gi" } },
    shows: (o) => container(o).resources?.limits?.memory,
    want: "1Gi",
  },
  { path: "podLabels", value: { a: "b" }, shows: (o) => deployment(o).spec?.template.metadata?.labels?.a, want: "b" },
  {
    path: "podAnnotations",
    value: { a: "b" },
    shows: (o) => deployment(o).spec?.template.metadata?.annotations,
    want: { a: "b" },
  },
  { path: "nodeSelector", value: { a: "b" }, shows: (o) => pod(o).nodeSelector, want: { a: "b" } },
  { path: "nodeSelector", value: { a: "b" }, shows: ofTestPool, want: { spec: { nodeSelector: { a: "b" } } } },
  {
    path: "tolerations",
    value: [{ operator: "Exists" }],
    shows: (o) => pod(o).tolerations,
    want: [{ operator: "Exists" }],
  },
  {
    path: "tolerations",
    value: [{ operator: "Exists" }],
    shows: ofTestPool,
    want: { spec: { tolerations: [{ operator: "Exists" }] } },
  },
  { path: "affinity", value: { podAffinity: {} }, shows: (o) => pod(o).affinity, want: { podAffinity: {} } },
  { path: "priorityClassName", value: "high", shows: (o) => pod(o).priorityClassName, want: "high" },
];

test("every value has a row below", () => {
  expect([...new Set(ROWS.map(({ path }) => path))]).toEqual(chartValues().map(({ path }) => path));
});

for (const { path, value, shows, want, with: more = {} } of ROWS)
  cluster.test(`${path} ${JSON.stringify(value)} shows as ${JSON.stringify(want)}`, async () => {
    const [before, after] = [await rendered(cluster, { ...more }), await rendered(cluster, { ...more, [path]: value })];
    expect(shows(before)).not.toEqual(want);
    expect(shows(after)).toEqual(want);
  });

cluster.test("a value that the chart does not know, or of the wrong type, is refused by its name", async () => {
  await expect(rendered(cluster, { replica: 2 })).rejects.toThrow(/additional properties 'replica' not allowed/);
  await expect(rendered(cluster, { "image.tags": "x" })).rejects.toThrow(/at '\/image'.*'tags' not allowed/s);
  await expect(rendered(cluster, { "image.tag": 1.1 })).rejects.toThrow(/at '\/image\/tag': got number, want string/);
  await expect(rendered(cluster, { replicas: "2" })).rejects.toThrow(/at '\/replicas': got string, want integer/);
  await expect(rendered(cluster, { global: { any: "parent's" } })).resolves.toBeDefined();
});

cluster.test(
  "the operator's pods are those that the pools' NetworkPolicies let in, whatever labels are added",
  async () => {
    const mine = pool({ backend: "stub" });
    const settings = { images: defaultImages(VERSION), operatorNamespace: "llmpool-system", podMonitors: false };
    const policy = renderPool(mine, planPool(mine), settings).find(({ kind }) => kind === "NetworkPolicy");
    const wanted = JSON.stringify(policy).match(/"podSelector":\{"matchLabels":(\{[^}]*"operator"[^}]*\})/)?.[1] ?? "";
    const labels = { "app.kubernetes.io/component": "other", "app.kubernetes.io/name": "other", team: "a" };
    const objects = await rendered(cluster, { podLabels: labels });
    expect(deployment(objects).spec?.template.metadata?.labels).toMatchObject({ ...JSON.parse(wanted), team: "a" });
  },
);

cluster.test("the images that pools get by default are those that the operator has by itself", async () => {
  const objects = await rendered(cluster);
  const images = defaultImages(container(objects).image?.split(":")[1] ?? "");
  for (const [name, image] of Object.entries(images)) expect(imageOf(name)(objects)).toBe(image);
});
