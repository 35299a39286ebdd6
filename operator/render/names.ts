import type { LLMPool } from "../../src/api/llmpool.ts";
import { API_VERSION, DEFAULT_VARIANT, instancesServiceOf, KIND, LABELS } from "../../src/api/names.ts";
import { setNameOf } from "../../src/core/plan/set-name.ts";
import type { ObjectMeta, OwnerReference } from "../../src/kube/object.ts";

export type Component = "instance" | "router" | "loader";

/** Who writes the objects: the field manager of every apply, and the value of `app.kubernetes.io/managed-by`. */
export const MANAGER = "llmpool-operator";

/** Names of a pool's objects. The Service, Deployment and the default variant's StatefulSet bear the pool's own. */
export const namesOf = (pool: string) => ({
  /** Deployment, Service, ServiceAccount, Role and RoleBinding of the router. */
  router: pool,
  /** PodDisruptionBudget, PodMonitor and the store's claim of the router. */
  routerParts: `${pool}-router`,
  /** Headless Service, PodDisruptionBudget and PodMonitor of all instances. */
  instances: instancesServiceOf(pool),
  /** Secret with the random token that instances ask for. */
  token: `${pool}-token`,
  /** StatefulSet and NetworkPolicy of a variant, and the ConfigMap of a Packed one. */
  variant: (variant: string) => setNameOf(pool, variant),
});

/** Claim for the model's files: the pool's own, or that of a variant with a model of its own. */
export const cacheName = (pool: string, variant: string): string =>
  variant === DEFAULT_VARIANT ? `${pool}-model` : `${pool}-${variant}-model`;

/** ConfigMap with what is known of a model, by the hash of what it is. */
export const factsName = (pool: string, content: string): string => `${pool}-model-${content}`;

/** Job that loads a model, by the hash of what it is and how it is loaded. */
export const loaderName = (pool: string, revision: string): string => `${pool}-load-${revision}`;

/** Labels by which a pool's pods are found; they never change, because selectors may not. */
export function podLabels(pool: string, component: Component, variant?: string): Record<string, string> {
  return {
    [LABELS.component]: component,
    [LABELS.pool]: pool,
    ...(variant !== undefined && { [LABELS.variant]: variant }),
  };
}

/** Labels of an owned object: those of its pods, and whose work it is. */
export function objectLabels(pool: string, component?: Component, variant?: string): Record<string, string> {
  return {
    [LABELS.managedBy]: MANAGER,
    [LABELS.name]: "llmpool",
    [LABELS.pool]: pool,
    ...(component !== undefined && { [LABELS.component]: component }),
    ...(variant !== undefined && { [LABELS.variant]: variant }),
  };
}

/** The pool as the one owner, so that the garbage collector takes everything with it. Undefined before the server has given a uid. */
export function ownerOf({ metadata }: LLMPool): OwnerReference | undefined {
  const { name, uid } = metadata as Partial<ObjectMeta> & { name: string };
  if (typeof uid !== "string" || uid === "") return undefined;
  return { apiVersion: API_VERSION, kind: KIND, name, uid, controller: true, blockOwnerDeletion: true };
}
