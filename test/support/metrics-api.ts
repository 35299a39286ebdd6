import { onTestFinished } from "vitest";
import type { KubeObject } from "../../src/kube/object.ts";
import type { TestCluster } from "./cluster.ts";
import { httpsServer } from "./https-server.ts";

const GROUP = "custom.metrics.k8s.io";
const VERSION = "v1beta2";
const GROUP_VERSION = `${GROUP}/${VERSION}`;

/**
 * The API of custom metrics, served by the test for a HorizontalPodAutoscaler: the pods of a namespace share `total` of what is measured, and
 * `selectors` are those that it was asked for with. Needs a real node, whose network the API server is on. Ends with the test.
 */
export async function customMetrics(
  cluster: TestCluster,
  namespace: string,
  metric: string,
  total: (pods: readonly string[]) => number,
): Promise<{ selectors: () => ReadonlySet<string> }> {
  const name = "metrics";
  const selectors = new Set<string>();
  const measure = async (selector: string) => {
    selectors.add(selector);
    const args = ["get", "pods", "--namespace", namespace, "--selector", selector, "--output", "json"];
    const { items } = JSON.parse(await cluster.kubectl(args)) as { items: KubeObject[] };
    const share = total(items.map(({ metadata }) => metadata.name)) / items.length;
    return list("MetricValueList", {
      items: items.map(({ metadata }) => ({
        describedObject: { kind: "Pod", apiVersion: "v1", namespace, name: metadata.name },
        metric: { name: metric },
        timestamp: new Date().toISOString(),
        value: `${Math.round(share * 1000)}m`,
      })),
    });
  };
  const answer = async ({ pathname, searchParams }: URL): Promise<object | undefined> => {
    const path = decodeURIComponent(pathname);
    if (path === `/apis/${GROUP}`) return group;
    if (path === `/apis/${GROUP_VERSION}`) return resources;
    if (path === `/apis/${GROUP_VERSION}/namespaces/${namespace}/pods/*/${metric}`)
      return measure(searchParams.get("labelSelector") ?? "");
    return undefined;
  };
  const host = cluster.hostAddress;
  const { port, authority } = await httpsServer(host, [`DNS:${name}.${namespace}.svc`], (request, response) => {
    answer(new URL(request.url ?? "", "https://localhost")).then(
      (body) => {
        response.writeHead(body ? 200 : 404, { "content-type": "application/json" }).end(JSON.stringify(body));
      },
      () => response.writeHead(500).end(),
    );
  });

  // A Service without a selector, whose one endpoint is this process.
  const service = {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name },
    spec: { ports: [{ port: 443, targetPort: port }] },
  };
  const slice = {
    apiVersion: "discovery.k8s.io/v1",
    kind: "EndpointSlice",
    metadata: { name, labels: { "kubernetes.io/service-name": name } },
    addressType: "IPv4",
    ports: [{ port }],
    endpoints: [{ addresses: [host] }],
  };
  await cluster.apply([service, slice], namespace);
  const apiService = `${VERSION}.${GROUP}`;
  onTestFinished(() => cluster.kubectl(["delete", "apiservice", apiService]).then(() => {}));
  const spec = {
    group: GROUP,
    version: VERSION,
    groupPriorityMinimum: 100,
    versionPriority: 100,
    service: { namespace, name, port: 443 },
    caBundle: Buffer.from(authority).toString("base64"),
  };
  await cluster.apply([
    { apiVersion: "apiregistration.k8s.io/v1", kind: "APIService", metadata: { name: apiService }, spec },
  ]);
  await cluster.kubectl(["wait", "--for=condition=Available", `apiservice/${apiService}`, "--timeout=60s"]);
  return { selectors: () => selectors };
}

const list = (kind: string, more: object) => ({ apiVersion: GROUP_VERSION, kind, metadata: {}, ...more });

const group = {
  apiVersion: "v1",
  kind: "APIGroup",
  name: GROUP,
  versions: [{ groupVersion: GROUP_VERSION, version: VERSION }],
  preferredVersion: { groupVersion: GROUP_VERSION, version: VERSION },
};

const resources = { apiVersion: "v1", kind: "APIResourceList", groupVersion: GROUP_VERSION, resources: [] };
