import type { V1NetworkPolicy, V1Role, V1RoleBinding, V1ServiceAccount } from "@kubernetes/client-node";
import { GROUP, LABELS } from "../../src/api/names.ts";
import type { VariantPlan } from "../../src/core/plan/types.ts";
import type { ObjectOf } from "../../src/kube/object.ts";
import { SUPERVISOR_PORT } from "./instance-pod.ts";
import { namesOf, objectLabels, podLabels } from "./names.ts";
import type { RenderSettings } from "./settings.ts";

const READ = ["get", "list", "watch"];

/** Who the router is, what it may read: its own pool, and addresses of its namespace, but no pod's spec. Instances are nobody. */
export function routerAccess(pool: string): [ObjectOf<V1ServiceAccount>, ObjectOf<V1Role>, ObjectOf<V1RoleBinding>] {
  const name = namesOf(pool).router;
  const metadata = { name, labels: objectLabels(pool, "router") };
  return [
    { apiVersion: "v1", kind: "ServiceAccount", metadata },
    {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "Role",
      metadata,
      rules: [
        { apiGroups: [GROUP], resources: ["llmpools"], resourceNames: [pool], verbs: READ },
        { apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: READ },
      ],
    },
    {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "RoleBinding",
      metadata,
      // Of the binding's own namespace.
      subjects: [{ kind: "ServiceAccount", name }],
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name },
    },
  ];
}

/** The pods of one variant are called by the pool's router and the operator; their metrics by everybody. A kubelet's probes are never filtered. */
export function variantPolicy(
  pool: string,
  { name, gpu }: VariantPlan,
  { operatorNamespace }: RenderSettings,
): ObjectOf<V1NetworkPolicy> {
  const slots = gpu?.instancesPerPod ?? 1;
  const operator = {
    namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": operatorNamespace } },
    podSelector: { matchLabels: { [LABELS.component]: "operator", [LABELS.name]: "llmpool" } },
  };
  return {
    apiVersion: "networking.k8s.io/v1",
    kind: "NetworkPolicy",
    metadata: { name: namesOf(pool).variant(name), labels: objectLabels(pool, "instance", name) },
    spec: {
      podSelector: { matchLabels: podLabels(pool, "instance", name) },
      policyTypes: ["Ingress"],
      ingress: [
        {
          from: [{ podSelector: { matchLabels: podLabels(pool, "router") } }, operator],
          ports: [portRange(8000, slots)],
        },
        ...(gpu?.mode === "Packed" ? [{ from: [operator], ports: [portRange(SUPERVISOR_PORT, slots)] }] : []),
        { ports: [gpu?.mode === "Packed" ? portRange(8100, slots) : portRange(8001, 1)] },
      ],
    },
  };
}

function portRange(port: number, count: number) {
  return { protocol: "TCP", port, ...(count > 1 && { endPort: port + count - 1 }) };
}
