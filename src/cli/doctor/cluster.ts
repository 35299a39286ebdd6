import { isDeepStrictEqual } from "node:util";
import type { V1CustomResourceDefinition, V1Deployment, V1Node } from "@kubernetes/client-node";
import { LLMPool } from "../../api/llmpool.ts";
import { API_VERSION, GROUP, LABELS, VERSION } from "../../api/names.ts";
import { structural } from "../../api/structural.ts";
import { LLMPOOLS } from "../../cluster/llmpools.ts";
import { isNotFound, isStatus } from "../../kube/errors.ts";
import type { ObjectOf } from "../../kube/object.ts";
import { RESOURCES, selectorOf } from "../../kube/resource.ts";
import { messageOf } from "../../lib/errors.ts";
import type { ClusterAccess } from "../cluster-access.ts";
import { type Finding, fail, info, ok, warn } from "./finding.ts";

type Check = (access: ClusterAccess, signal: AbortSignal) => Promise<Finding[]>;
type Node = ObjectOf<V1Node>;
type Deployment = ObjectOf<V1Deployment>;

/** Nodes whose kubelet is asked: enough to see how a cluster is set up, and soon done on a large one. */
const KUBELETS = 10;
const INSTALL = "helm install llmpool helm/llmpool --namespace llmpool-system --create-namespace";

/** What a cluster has for pools. What the user may not look at is said, and nothing is concluded from it. */
export async function checkCluster(access: ClusterAccess, version: string, signal: AbortSignal): Promise<Finding[]> {
  const server = await checkServer(access, signal);
  if (server.level === "fail") return [server];
  const checks: [string, Check][] = [
    ["kind", checkKind],
    ["operator", (...with_) => checkOperator(version, ...with_)],
    ["rights", checkRights],
    ["nodes", checkNodes],
  ];
  const findings = checks.map(([subject, check]) =>
    check(access, signal).catch((error: unknown) => unseen(subject, error)),
  );
  return [server, ...(await Promise.all(findings)).flat()];
}

function unseen(subject: string, error: unknown): Finding[] {
  const why = isStatus(error, 403) ? "you may not look at that" : messageOf(error);
  return [info(subject, `not checked: ${why}`)];
}

async function checkServer({ client, server }: ClusterAccess, signal: AbortSignal): Promise<Finding> {
  try {
    const { gitVersion, minor } = await client.request<{ gitVersion: string; minor: string }>("GET", "/version", {
      signal,
    });
    const detail = `Kubernetes ${gitVersion} at ${server}`;
    if (Number.parseInt(minor, 10) >= 31) return ok("cluster", detail);
    return warn("cluster", detail, "the operator is made for Kubernetes 1.31 and later");
  } catch (error) {
    signal.throwIfAborted();
    return fail(
      "cluster",
      messageOf(error),
      "check KUBECONFIG, --kubeconfig and --context; does kubectl version answer?",
    );
  }
}

/** The kind, and whether its fields are those of this version. */
async function checkKind({ client }: ClusterAccess, signal: AbortSignal): Promise<Finding[]> {
  const cure = "helm upgrade (crds.install), or kubectl apply --server-side -f crds/";
  let crd: ObjectOf<V1CustomResourceDefinition> | undefined;
  try {
    crd = await client.find(RESOURCES.customResourceDefinitions, { name: `${LLMPOOLS.plural}.${GROUP}` }, signal);
    if (!crd) return [fail("kind", "the cluster does not know LLMPools", INSTALL)];
  } catch (error) {
    if (!isStatus(error, 403)) throw error;
    return [await servedKind({ client }, signal)];
  }
  const stored = crd.spec?.versions.find(({ name }) => name === VERSION)?.schema?.openAPIV3Schema?.properties?.spec;
  if (stored === undefined) return [fail("kind", `LLMPool is there, but not as ${API_VERSION}`, cure)];
  const own = structural(LLMPool).properties?.spec;
  if (isDeepStrictEqual(stored, own)) return [ok("kind", `LLMPool ${API_VERSION}, with the fields of this version`)];
  return [warn("kind", `LLMPool ${API_VERSION} has other fields or rules than this version knows`, cure)];
}

async function servedKind({ client }: Pick<ClusterAccess, "client">, signal: AbortSignal): Promise<Finding> {
  try {
    await client.request("GET", `/apis/${API_VERSION}`, { signal });
    return ok("kind", `LLMPool ${API_VERSION}; whether its fields are this version's you may not see`);
  } catch (error) {
    if (!isNotFound(error)) throw error;
    return fail("kind", "the cluster does not know LLMPools", INSTALL);
  }
}

async function checkOperator(version: string, { client }: ClusterAccess, signal: AbortSignal): Promise<Finding[]> {
  const labelSelector = selectorOf({ [LABELS.component]: "operator", [LABELS.name]: "llmpool" });
  const { items } = await client.list<Deployment>(RESOURCES.deployments, { labelSelector }, signal);
  if (items.length === 0)
    return [warn("operator", "no Deployment of the chart is there: pools stay as they are", INSTALL)];
  return items.map(({ metadata, spec, status }) => {
    const image = spec?.template.spec?.containers[0]?.image ?? "";
    const detail = `${metadata.namespace}/${metadata.name}: ${status?.availableReplicas ?? 0} of ${spec?.replicas ?? 1} available, ${image}`;
    if ((status?.availableReplicas ?? 0) === 0)
      return fail(
        "operator",
        detail,
        `kubectl describe pods --namespace ${metadata.namespace} --selector ${labelSelector}`,
      );
    const other = metadata.labels?.["app.kubernetes.io/version"];
    if (other === undefined || other === version) return ok("operator", detail);
    return warn(
      "operator",
      `${detail}; it is version ${other}, this is ${version}`,
      "use the command of that version, or upgrade the chart",
    );
  });
}

/** What the user may do with pools in the namespace. */
async function checkRights({ client, namespace }: ClusterAccess, signal: AbortSignal): Promise<Finding[]> {
  const allowed = await Promise.all(
    ["get", "create", "patch", "delete"].map(async (verb) => {
      const body = {
        apiVersion: "authorization.k8s.io/v1",
        kind: "SelfSubjectAccessReview",
        spec: { resourceAttributes: { namespace, verb, group: GROUP, resource: LLMPOOLS.plural } },
      };
      const path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
      const { status } = await client.request<{ status: { allowed: boolean } }>("POST", path, { body, signal });
      return { verb, allowed: status.allowed };
    }),
  );
  const missing = allowed.filter((one) => !one.allowed).map(({ verb }) => verb);
  if (missing.length === 0) return [ok("rights", `you may do everything with pools in namespace ${namespace}`)];
  return [
    warn(
      "rights",
      `you may not ${missing.join(", ")} pools in namespace ${namespace}`,
      "ask for the role edit of that namespace, or view to read (the chart's rbac.aggregate adds pools to them)",
    ),
  ];
}

async function checkNodes({ client }: ClusterAccess, signal: AbortSignal): Promise<Finding[]> {
  const { items } = await client.list<Node>(RESOURCES.nodes, {}, signal);
  return [cardsOf(items), ...(await checkGroupKills(client, items, signal))];
}

/** Cards by resource name, with the models that node labels tell. */
export function cardsOf(nodes: readonly Node[]): Finding {
  const counts = new Map<string, { cards: number; nodes: number; models: Set<string> }>();
  for (const { status, metadata } of nodes)
    for (const [resource, amount] of Object.entries(status?.allocatable ?? {})) {
      if (!resource.startsWith("nvidia.com/") || Number(amount) === 0) continue;
      const found = counts.get(resource) ?? { cards: 0, nodes: 0, models: new Set() };
      found.cards += Number(amount);
      found.nodes++;
      const model = metadata.labels?.["nvidia.com/gpu.product"];
      if (model !== undefined) found.models.add(model);
      counts.set(resource, found);
    }
  if (counts.size === 0)
    return info(
      "GPUs",
      `none on ${nodes.length} nodes: backends stub and llama-cpp need none (resource claims are not counted)`,
    );
  const texts = [...counts].map(([resource, { cards, nodes, models }]) => {
    const which = models.size > 0 ? ` (${[...models].sort().join(", ")})` : "";
    return `${cards} ${resource} on ${nodes} ${nodes === 1 ? "node" : "nodes"}${which}`;
  });
  return ok("GPUs", texts.join("; "));
}

/** Where an out-of-memory kill takes all processes of a container, a Packed pod's supervisor goes too. */
async function checkGroupKills(
  client: ClusterAccess["client"],
  nodes: readonly Node[],
  signal: AbortSignal,
): Promise<Finding[]> {
  const asked = await Promise.all(
    nodes.slice(0, KUBELETS).map((node) => killsAlone(client, node.metadata.name, signal)),
  );
  const groups = asked.filter(({ alone }) => alone === false).map(({ name }) => name);
  if (groups.length > 0)
    return [
      warn(
        "group kill",
        `${groups.join(", ")}: on cgroup v2 one process out of memory ends its whole container, in gpu.mode Packed all instances of a pod`,
        "set singleProcessOOMKill: true in the kubelet's configuration; until then the supervisor's watchdog acts first",
      ),
    ];
  if (asked.some(({ alone }) => alone === true)) return [ok("group kill", "a process out of memory ends alone")];
  return [info("group kill", "not checked: no kubelet's configuration can be read (nodes/proxy)")];
}

/** `alone`: whether its kubelet says so; undefined when it cannot be asked. */
async function killsAlone(
  client: ClusterAccess["client"],
  name: string,
  signal: AbortSignal,
): Promise<{ name: string; alone: boolean | undefined }> {
  try {
    type Configz = { kubeletconfig?: { singleProcessOOMKill?: boolean } };
    const path = `/api/v1/nodes/${encodeURIComponent(name)}/proxy/configz`;
    const { kubeletconfig } = await client.request<Configz>("GET", path, { signal });
    return { name, alone: kubeletconfig && kubeletconfig.singleProcessOOMKill === true };
  } catch {
    signal.throwIfAborted();
    return { name, alone: undefined };
  }
}
