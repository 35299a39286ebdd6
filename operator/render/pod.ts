import type { V1Container, V1PodSpec, V1PodTemplateSpec } from "@kubernetes/client-node";
import type { Wire } from "../../src/kube/object.ts";
import { isMap, strategicMerge } from "./strategic-merge.ts";

export type Container = Wire<V1Container>;
export type PodSpec = Wire<V1PodSpec>;
export type PodTemplate = Wire<V1PodTemplateSpec>;

/** User and group of the images; a number, because only then a kubelet can tell that it is not root. */
const USER = 65_532;

/** Where pods have things. */
export const PATHS = {
  token: "/run/llmpool/token",
  instances: "/etc/llmpool/instances",
  secrets: "/etc/llmpool/secrets",
  claims: "/var/lib/llmpool/claims",
  cache: "/var/lib/llmpool/cache",
  state: "/var/lib/llmpool/state",
  store: "/var/lib/llmpool/store",
} as const;

/** Nodes with cards are usually kept for pods that want them. */
export const GPU_TOLERATIONS = [{ key: "nvidia.com/gpu", operator: "Exists", effect: "NoSchedule" }];

/** Time that a process gets beyond its drain to end by itself, before the kubelet kills it. */
export const GRACE_SECONDS = 10;

/** What every container of ours has: the restricted Pod Security Standard, a read-only root, a folder to write in. */
export const CONTAINER_SECURITY = {
  allowPrivilegeEscalation: false,
  capabilities: { drop: ["ALL"] },
  readOnlyRootFilesystem: true,
};

/** The pod's half of the restricted standard; volumes belong to the group. */
export const POD_SECURITY = {
  runAsNonRoot: true,
  runAsUser: USER,
  runAsGroup: USER,
  fsGroup: USER,
  fsGroupChangePolicy: "OnRootMismatch",
  seccompProfile: { type: "RuntimeDefault" },
};

/** Prefers other nodes than those that have such a pod already. */
export function spread(labels: Record<string, string>): NonNullable<PodSpec["topologySpreadConstraints"]> {
  return [
    {
      maxSkew: 1,
      topologyKey: "kubernetes.io/hostname",
      whenUnsatisfiable: "ScheduleAnyway",
      labelSelector: { matchLabels: labels },
    },
  ];
}

/** A probe over HTTP. `failures` in a row, a period apart, count as one. */
export function httpProbe(path: string, port: number | string, periodSeconds: number, failures: number) {
  return { httpGet: { path, port }, periodSeconds, timeoutSeconds: 5, failureThreshold: failures };
}

/** A literal value of an environment variable or an argument: the kubelet replaces `$(NAME)` in it, and `$$` stands for one `$`. */
export const literal = (text: string): string => text.replaceAll("$", "$$$$");

/**
 * When an image is pulled, where nobody says: what the API server would write into a new object. Into one that is edited it does not write it
 * again, and an image of another tag would be pulled by the rule of the one before.
 */
function withPullPolicies(template: PodTemplate): PodTemplate {
  const containers = template.spec?.containers;
  if (!Array.isArray(containers)) return template;
  return { ...template, spec: { ...template.spec, containers: containers.map(withPullPolicy) } as PodSpec };
}

function withPullPolicy(container: Container): Container {
  if (typeof container?.image !== "string" || container.imagePullPolicy !== undefined) return container;
  const [name = "", digest] = container.image.split("@");
  const tag = /:([^:/]+)$/.exec(name)?.[1];
  const moves = tag === "latest" || (tag === undefined && digest === undefined);
  return { ...container, imagePullPolicy: moves ? "Always" : "IfNotPresent" };
}

/** The spec of the user's part as far as it has the shape of one. What has not is left to the API server, which refuses it in better words. */
export function specIn(podTemplate: object | undefined): Partial<PodSpec> {
  const { spec } = (podTemplate ?? {}) as { spec?: unknown };
  if (!isMap(spec)) return {};
  const { containers, ...rest } = spec;
  return { ...rest, ...(Array.isArray(containers) && { containers: containers.filter(isMap) }) } as Partial<PodSpec>;
}

/** Merges the user's part in; the labels and annotations that we find pods by stay ours. */
export function withPodTemplate(template: PodTemplate, patch: object | undefined): PodTemplate {
  if (patch === undefined) return withPullPolicies(template);
  const merged = withPullPolicies(strategicMerge(template, patch));
  return {
    ...merged,
    metadata: {
      ...merged.metadata,
      labels: { ...merged.metadata?.labels, ...template.metadata?.labels },
      annotations: { ...merged.metadata?.annotations, ...template.metadata?.annotations },
    },
  };
}
