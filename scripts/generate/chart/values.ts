import { z } from "zod";

/** The values of the chart: `values.yaml`, `values.schema.json` and the table of docs/helm.md are made of this. */

const free = () => z.record(z.string(), z.unknown()).default({});
const text = () => z.string().default("");
const texts = () => z.record(z.string(), z.string()).default({});

const Image = z.strictObject({
  registry: text().describe(
    "Put in front of every image, as registry.example.com/team; empty: the node's default registry.",
  ),
  repository: z
    .string()
    .min(1)
    .default("llmpool/llmpool")
    .describe("Image of the operator, of every router and of the stub."),
  tag: text().describe("Tag of every image; empty: the chart's appVersion."),
  pullPolicy: z
    .enum(["Always", "IfNotPresent", "Never"])
    .default("IfNotPresent")
    .describe("When nodes pull the operator's image."),
  pullSecrets: z
    .array(z.strictObject({ name: z.string().min(1) }))
    .default([])
    .describe(
      "Secrets with which the operator's image is pulled. Pools name theirs in podTemplate, in their own namespaces.",
    ),
});

const Runtimes = z.strictObject({
  "llama-cpp": text().describe("Image of backend llama-cpp; empty: llmpool/llama-cpp of image.registry and image.tag."),
  "hf-cuda": text().describe("Image of backend hf-cuda; empty: llmpool/hf-cuda of image.registry and image.tag."),
});

const Crds = z.strictObject({
  install: z
    .boolean()
    .default(true)
    .describe("Install and upgrade the LLMPool kind with this release. Uninstalling keeps it, and all pools."),
});

const Rbac = z.strictObject({
  create: z.boolean().default(true).describe("Make the roles that the operator needs, and bind them."),
  aggregate: z
    .boolean()
    .default(true)
    .describe("Let whoever may view or edit a namespace do the same with its pools (the roles view, edit and admin)."),
});

const ServiceAccount = z.strictObject({
  create: z.boolean().default(true).describe("Make the operator's account."),
  name: text().describe("Name of the account; empty: the release's, or default where none is made."),
  annotations: texts().describe("Annotations of the account."),
});

const Metrics = z.strictObject({
  service: z.boolean().default(true).describe("Make a Service for /metrics of the operator, port 8081."),
  podMonitor: z
    .strictObject({
      enabled: z
        .boolean()
        .default(false)
        .describe("Make a PodMonitor of the operator; the cluster must know that kind."),
      labels: texts().describe("Labels by which a Prometheus selects its PodMonitors."),
    })
    .prefault({}),
});

const RESOURCES = { requests: { cpu: "50m", memory: "128Mi" }, limits: { memory: "256Mi" } };

export const Values = z.strictObject({
  replicas: z
    .int()
    .min(0)
    .max(10)
    .default(1)
    .describe("Operators: one works, the others stand by. More than one get a PodDisruptionBudget."),
  watchNamespace: text().describe(
    "Look after the pools of this namespace alone, with rights in it alone; empty: of all namespaces.",
  ),
  image: Image.prefault({}),
  runtimes: Runtimes.prefault({}),
  crds: Crds.prefault({}),
  rbac: Rbac.prefault({}),
  serviceAccount: ServiceAccount.prefault({}),
  metrics: Metrics.prefault({}),
  resources: z.record(z.string(), z.unknown()).default(RESOURCES).describe("Resources of the operator's container."),
  podLabels: texts().describe("More labels for the operator's pods."),
  podAnnotations: texts().describe("Annotations of the operator's pods."),
  nodeSelector: texts().describe("Labels of the nodes that the operator may run on."),
  tolerations: z
    .array(z.record(z.string(), z.unknown()))
    .default([])
    .describe("Taints that the operator's pods tolerate."),
  affinity: free().describe("Affinity of the operator's pods."),
  priorityClassName: text().describe("Priority class of the operator's pods."),
});
