/** A kind as its URL has it. */
export interface Resource {
  /** `v1`, `apps/v1` */
  readonly apiVersion: string;
  readonly kind: string;
  /** `statefulsets` */
  readonly plural: string;
  readonly namespaced: boolean;
}

function namespaced(apiVersion: string, kind: string, plural: string): Resource {
  return { apiVersion, kind, plural, namespaced: true };
}

function clusterWide(apiVersion: string, kind: string, plural: string): Resource {
  return { apiVersion, kind, plural, namespaced: false };
}

/** The built-in kinds that controllers and their tests use. A table spares a discovery call for each group at every start. */
export const RESOURCES = {
  pods: namespaced("v1", "Pod", "pods"),
  services: namespaced("v1", "Service", "services"),
  configMaps: namespaced("v1", "ConfigMap", "configmaps"),
  secrets: namespaced("v1", "Secret", "secrets"),
  serviceAccounts: namespaced("v1", "ServiceAccount", "serviceaccounts"),
  persistentVolumeClaims: namespaced("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
  resourceQuotas: namespaced("v1", "ResourceQuota", "resourcequotas"),
  namespaces: clusterWide("v1", "Namespace", "namespaces"),
  nodes: clusterWide("v1", "Node", "nodes"),
  statefulSets: namespaced("apps/v1", "StatefulSet", "statefulsets"),
  deployments: namespaced("apps/v1", "Deployment", "deployments"),
  jobs: namespaced("batch/v1", "Job", "jobs"),
  horizontalPodAutoscalers: namespaced("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
  podDisruptionBudgets: namespaced("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
  networkPolicies: namespaced("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
  endpointSlices: namespaced("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
  roles: namespaced("rbac.authorization.k8s.io/v1", "Role", "roles"),
  roleBindings: namespaced("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
  leases: namespaced("coordination.k8s.io/v1", "Lease", "leases"),
  events: namespaced("events.k8s.io/v1", "Event", "events"),
  podMonitors: namespaced("monitoring.coreos.com/v1", "PodMonitor", "podmonitors"),
  resourceClaims: namespaced("resource.k8s.io/v1", "ResourceClaim", "resourceclaims"),
  resourceClaimTemplates: namespaced("resource.k8s.io/v1", "ResourceClaimTemplate", "resourceclaimtemplates"),
  resourceSlices: clusterWide("resource.k8s.io/v1", "ResourceSlice", "resourceslices"),
  customResourceDefinitions: clusterWide(
    "apiextensions.k8s.io/v1",
    "CustomResourceDefinition",
    "customresourcedefinitions",
  ),
} as const satisfies Record<string, Resource>;

/** Which object or collection: without `name` a collection, without `namespace` that of all namespaces. */
export interface Place {
  namespace?: string | undefined;
  name?: string | undefined;
  /** `status`, `scale` */
  subresource?: string | undefined;
}

/** The path of an object or a collection on the API server. */
export function pathOf(resource: Resource, { namespace, name, subresource }: Place = {}): string {
  if (resource.namespaced && name !== undefined && namespace === undefined)
    throw new TypeError(`a ${resource.kind} has a namespace: say in which ${JSON.stringify(name)} is`);
  const parts = [resource.apiVersion.includes("/") ? "apis" : "api", ...resource.apiVersion.split("/")];
  if (resource.namespaced && namespace !== undefined) parts.push("namespaces", namespace);
  parts.push(resource.plural);
  if (name !== undefined) parts.push(name);
  if (subresource !== undefined) parts.push(subresource);
  return `/${parts.map(encodeURIComponent).join("/")}`;
}

/** Labels that must all be there, as a selector. */
export function selectorOf(labels: Record<string, string>): string {
  return Object.entries(labels)
    .map(([name, value]) => `${name}=${value}`)
    .sort()
    .join(",");
}
