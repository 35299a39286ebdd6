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
  RESOURCES.statefulSets,
  RESOURCES.deployments,
  RESOURCES.podDisruptionBudgets,
];

/** Deleted when an edit leaves them over. Claims hold data: they stay as long as their pool. */
export const isExpendable = ({ kind }: KubeObject): boolean => kind !== RESOURCES.persistentVolumeClaims.kind;
