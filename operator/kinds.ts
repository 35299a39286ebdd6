import type { V1Pod } from "@kubernetes/client-node";
import { API_VERSION, KIND } from "../src/api/names.ts";
import type { KubeObject, ObjectOf } from "../src/kube/object.ts";
import { RESOURCES, type Resource } from "../src/kube/resource.ts";

export type Pod = ObjectOf<V1Pod>;

export const LLMPOOLS: Resource = { apiVersion: API_VERSION, kind: KIND, plural: "llmpools", namespaced: true };

/** The kinds that a pool is rendered to. */
export const OWNED: readonly Resource[] = [
  RESOURCES.serviceAccounts,
  RESOURCES.roles,
  RESOURCES.roleBindings,
  RESOURCES.services,
  RESOURCES.persistentVolumeClaims,
  RESOURCES.networkPolicies,
  RESOURCES.configMaps,
  RESOURCES.jobs,
  RESOURCES.statefulSets,
  RESOURCES.deployments,
  RESOURCES.podDisruptionBudgets,
];

/** The kinds of which an edit of a pool can leave an object over: those that only some variants have. All others stay as long as their pool. */
const LEFT_OVER: readonly string[] = [
  RESOURCES.networkPolicies.kind,
  RESOURCES.configMaps.kind,
  RESOURCES.statefulSets.kind,
  RESOURCES.jobs.kind,
];

/** Of a Job hardly anything may change: it is made once, and another one has another name. */
export const isMadeOnce = ({ kind }: KubeObject): boolean => kind === RESOURCES.jobs.kind;

/** Deleted when an edit leaves them over. Claims hold data and are not among them. */
export const isExpendable = ({ kind }: { kind: string }): boolean => LEFT_OVER.includes(kind);
