import type {
  V1ConfigMap,
  V1PersistentVolumeClaim,
  V1PodDisruptionBudget,
  V1Service,
  V1StatefulSet,
} from "@kubernetes/client-node";
import { ANNOTATIONS } from "../../src/api/names.ts";
import type { ObjectOf } from "../../src/kube/object.ts";
import { instancePod, packedSpecs } from "./instance-pod.ts";
import { namesOf, objectLabels, podLabels } from "./names.ts";
import type { RenderSettings } from "./settings.ts";
import type { RenderedVariant } from "./variant.ts";

/** The pods of one variant. They are replaced by deletion alone, one by one, and never by the StatefulSet's own rollout. */
export function statefulSet(variant: RenderedVariant, settings: RenderSettings): ObjectOf<V1StatefulSet> {
  const { pool, plan, pods, podRevision } = variant;
  const names = namesOf(pool);
  return {
    apiVersion: "apps/v1",
    kind: "StatefulSet",
    metadata: {
      name: names.variant(plan.name),
      labels: objectLabels(pool, "instance", plan.name),
      annotations: { [ANNOTATIONS.revision]: podRevision },
    },
    spec: {
      replicas: pods,
      serviceName: names.instances,
      podManagementPolicy: "Parallel",
      updateStrategy: { type: "OnDelete" },
      revisionHistoryLimit: 2,
      selector: { matchLabels: podLabels(pool, "instance", plan.name) },
      template: instancePod(variant, settings),
    },
  };
}

/** Packed: what the supervisor of each pod is to run, `<ordinal>.json`, or `<ordinal>-<slot>.json` where each slot has a container. */
export function packedConfig(variant: RenderedVariant, settings: RenderSettings): ObjectOf<V1ConfigMap> {
  const { pool, plan, pods } = variant;
  const slots = plan.gpu?.resourceClaimTemplateName === undefined ? undefined : (plan.gpu?.instancesPerPod ?? 1);
  const data: Record<string, string> = {};
  for (let ordinal = 0; ordinal < pods; ordinal++) {
    if (slots === undefined) data[`${ordinal}.json`] = JSON.stringify(packedSpecs(variant, settings, ordinal));
    for (let slot = 0; slot < (slots ?? 0); slot++)
      data[`${ordinal}-${slot}.json`] = JSON.stringify(packedSpecs(variant, settings, ordinal, slot));
  }
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name: namesOf(pool).variant(plan.name), labels: objectLabels(pool, "instance", plan.name) },
    data,
  };
}

/** The volume for a model's files, when the pool asks for a new one. The loader writes it, and pods on any node read it. */
export function cacheClaim({ pool, cache }: RenderedVariant): ObjectOf<V1PersistentVolumeClaim> | undefined {
  if (cache?.made === undefined) return undefined;
  const { storage, storageClassName } = cache.made;
  return {
    apiVersion: "v1",
    kind: "PersistentVolumeClaim",
    metadata: { name: cache.claimName, labels: objectLabels(pool, "instance") },
    spec: {
      accessModes: ["ReadWriteMany"],
      ...(storageClassName !== undefined && { storageClassName }),
      resources: { requests: { storage } },
    },
  };
}

/** Gives the pods names, and the router their addresses: those of pods that still load, too, which it asks itself how they are. */
export function instancesService(pool: string): ObjectOf<V1Service> {
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: namesOf(pool).instances, labels: objectLabels(pool, "instance") },
    spec: {
      clusterIP: "None",
      publishNotReadyAddresses: true,
      selector: podLabels(pool, "instance"),
      ports: [{ name: "http", port: 8000, targetPort: 8000, protocol: "TCP" }],
    },
  };
}

/** Node drains take one instance pod at a time; one that is broken holds up nobody. */
export function instancesBudget(pool: string): ObjectOf<V1PodDisruptionBudget> {
  return disruptionBudget(namesOf(pool).instances, pool, "instance");
}

export function disruptionBudget(
  name: string,
  pool: string,
  component: "instance" | "router",
): ObjectOf<V1PodDisruptionBudget> {
  return {
    apiVersion: "policy/v1",
    kind: "PodDisruptionBudget",
    metadata: { name, labels: objectLabels(pool, component) },
    spec: {
      maxUnavailable: 1,
      unhealthyPodEvictionPolicy: "AlwaysAllow",
      selector: { matchLabels: podLabels(pool, component) },
    },
  };
}
