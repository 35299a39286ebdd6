import { z } from "zod";
import { formed, keyedBy, objectName, PodTemplate, Quantity, SecretKeyRef, seconds, text } from "./fields.ts";
import { BackendName, Model } from "./model.ts";
import { API_VERSION, KIND } from "./names.ts";
import { LLMPoolStatus } from "./status.ts";

export type { Backend } from "./model.ts";
export { Model } from "./model.ts";
export { LLMPoolStatus } from "./status.ts";

const instances = () => z.int32().min(0).max(256);
const contextTokens = () => z.int32().min(16).max(16_777_216);
const sessionsPerInstance = () => z.int32().min(1).max(256);
const image = () => text(512);
const tokens = () => z.int().min(0).max(1_000_000_000_000_000);

const roleName = () =>
  formed(
    63,
    /^[a-z0-9]([-._a-z0-9]*[a-z0-9])?$/,
    "a role name: lower-case letters and digits, with '-', '_' or '.' between them",
  );

export const Resources = z.strictObject({
  limits: z.record(text(63), Quantity).optional().describe("Most that one instance may take, such as memory: 12Gi."),
  requests: z.record(text(63), Quantity).optional().describe("What one instance is sure to get."),
});

export const Gpu = z.strictObject({
  mode: z
    .enum(["Exclusive", "Packed"])
    .optional()
    .describe("Exclusive: a pod per instance. Packed: several instances in one pod on one card."),
  count: z.int32().min(1).max(64).optional().describe("Cards of a pod. Default 1."),
  instancesPerPod: z.int32().min(1).max(64).optional().describe("Packed: isolated instances in one pod."),
  resource: text(253, 1)
    .optional()
    .describe("Extended resource to ask for, such as nvidia.com/gpu (default) or nvidia.com/mig-1g.10gb."),
  runtimeClassName: objectName().optional().describe("Runtime class of the pods, such as nvidia."),
  resourceClaimTemplateName: objectName()
    .optional()
    .describe("A ResourceClaimTemplate to claim the cards with, instead of resource."),
});

export const Role = z.strictObject({
  name: roleName().describe("What a request names to reach this role."),
  variant: formed(12, /^[a-z]([-a-z0-9]*[a-z0-9])?$/, "the name of a variant")
    .optional()
    .describe("Variant that serves it. Default: the pool's own instances."),
  instance: z
    .int32()
    .min(0)
    .max(255)
    .optional()
    .describe(
      "The one instance of the variant that serves it, counted from 0. Without it the roles share the variant's instances out.",
    ),
  systemPrompt: text(16384).optional().describe("Put in front of requests that have no system or developer message."),
});
export type Role = z.infer<typeof Role>;

export const Variant = z.strictObject({
  name: formed(
    12,
    /^[a-z]([-a-z0-9]*[a-z0-9])?$/,
    "at most 12 lower-case letters, digits and '-', beginning with a letter",
  ).describe("Name of the variant, and prefix of its instances' ids."),
  backend: BackendName.optional(),
  model: Model.optional().describe("Its model, in place of the pool's."),
  instances: instances().optional().describe("Its number of instances."),
  contextTokens: contextTokens().optional().describe("Context of one session, in tokens."),
  sessionsPerInstance: sessionsPerInstance().optional().describe("KV caches that one process keeps warm at once."),
  resources: Resources.optional().describe("Resources of one instance."),
  gpu: Gpu.optional().describe("Cards of its pods."),
  image: image().optional().describe("Runtime image."),
  podTemplate: PodTemplate.optional().describe("Merged into its pods."),
});
export type Variant = z.infer<typeof Variant>;

export const Episodes = z.strictObject({
  timeoutSeconds: seconds(1, 2_592_000).default(1800).describe("Time an episode has from its start."),
  progressExtendSeconds: seconds(0, 2_592_000).default(120).describe("Time that progress near the deadline adds."),
  maxTimeoutSeconds: seconds(1, 2_592_000).default(3600).describe("Time after which no progress helps."),
  idleTimeoutSeconds: seconds(0, 2_592_000)
    .default(0)
    .describe("Time without any sign of life after which an episode ends. 0: never."),
  heartbeatSeconds: seconds(1, 86_400).default(20).describe("Time between two heartbeat lines."),
  retainSeconds: seconds(0, 2_592_000).default(86_400).describe("Time for which an ended episode's id is remembered."),
});

export const Budgets = z.strictObject({
  episodeTokens: tokens().default(0).describe("Tokens one episode may spend. 0: no limit."),
  roleTokens: z.record(roleName(), tokens()).default({}).describe("Tokens a role may spend inside one episode."),
  poolTokensPerDay: tokens().default(0).describe("Tokens the whole pool may spend in a day of UTC. 0: no limit."),
});

export const Scaling = z.strictObject({
  minInstances: instances().optional().describe("Fewest instances."),
  maxInstances: instances().optional().describe("Most instances."),
  targetSessionsPerInstance: sessionsPerInstance()
    .optional()
    .describe("Sessions at which another instance is started."),
  scaleDownDelaySeconds: seconds(0, 86_400).optional().describe("Time of less load before an instance is stopped."),
});

export const PrefixCache = z.strictObject({
  prefixes: z.boolean().optional().describe("Share snapshots of common prompt prefixes between instances."),
  sizeLimitMiB: z.int32().min(0).max(16_777_216).optional().describe("Most space for snapshots."),
});

export const Router = z.strictObject({
  replicas: z.int32().min(1).max(16).default(1).describe("Router pods. More than one needs a Redis store."),
  queuePerInstance: z.int32().min(0).max(65_536).default(64).describe("Requests that may wait for one instance."),
  maxBodyMiB: z.int32().min(1).max(1024).default(8).describe("Largest request body."),
  auth: z
    .strictObject({
      mode: z
        .enum(["None", "ApiKey"])
        .default("None")
        .describe("None: everyone is one tenant. ApiKey: callers send a key of the Secret."),
      secretName: objectName().optional().describe("Secret with one entry per caller."),
    })
    .prefault({})
    .describe("Who may call."),
  serviceType: z
    .enum(["ClusterIP", "NodePort", "LoadBalancer"])
    .optional()
    .describe("Type of the router's Service. Default ClusterIP."),
  podTemplate: PodTemplate.optional().describe("Merged into the router's pods."),
});

export const Store = z.strictObject({
  redisSecretRef: SecretKeyRef.optional().describe(
    "Secret with the URL of a Redis or Valkey; needed for several routers.",
  ),
  storage: Quantity.optional().describe("Size of the one router's volume."),
  ephemeral: z.boolean().optional().describe("Keep the one router's state in its pod: lost with the pod."),
});

export const Stub = z.strictObject({
  ttftMs: z.number().min(0).max(3_600_000).default(0).describe("Time to the first token, in milliseconds."),
  interTokenMs: z.number().min(0).max(3_600_000).default(0).describe("Time between tokens, in milliseconds."),
  replyTokens: z.int32().min(1).max(1_000_000).default(16).describe("Tokens of an answer."),
  errorRate: z.number().min(0).max(1).default(0).describe("Share of requests that fail, 0 to 1."),
});

export const LLMPoolSpec = z.strictObject({
  backend: BackendName,
  model: Model.optional().describe("The model. Needed by every backend but stub."),
  instances: instances().default(5).describe("Instances of the default variant: isolated model processes."),
  contextTokens: contextTokens().default(4096).describe("Context of one session, in tokens."),
  sessionsPerInstance: sessionsPerInstance().default(4).describe("KV caches that one process keeps warm at once."),
  requestTimeoutSeconds: seconds(1, 86_400).default(180).describe("Most time one request may take, waiting included."),
  warmupPrompt: text(4096, 1).default("test").describe("Prompt of the inference that proves an instance ready."),
  rebindAfterSeconds: seconds(0, 86_400)
    .default(30)
    .describe("Time a session waits for its instance before it moves to another."),
  drainSeconds: seconds(0, 86_400).default(180).describe("Time open requests get before an instance stops."),
  sessionTTLSeconds: seconds(1, 2_592_000)
    .default(7200)
    .describe("Time after its last use for which a session is kept."),
  resources: Resources.optional().describe("Resources of one instance."),
  roles: z
    .array(Role)
    .max(64)
    .optional()
    .describe("Agent roles. Default: planner, coder, runner, critic, summarizer.")
    .meta(keyedBy("name")),
  variants: z.array(Variant).max(16).optional().describe("Other models for some roles.").meta(keyedBy("name")),
  episodes: Episodes.prefault({}).describe("How long a task of many requests may run."),
  budgets: Budgets.prefault({}).describe("How many tokens may be spent."),
  gpu: Gpu.optional().describe("Cards of the instances' pods."),
  scaling: Scaling.optional().describe("Not available yet."),
  cache: PrefixCache.optional().describe("Not available yet."),
  router: Router.prefault({}).describe("The router in front."),
  store: Store.optional().describe("Where the router keeps episodes, budgets and session bindings."),
  stub: Stub.prefault({}).describe("Knobs of backend stub."),
  image: image().optional().describe("Runtime image of the instances, in place of the backend's own."),
  podTemplate: PodTemplate.optional().describe("Merged into the instances' pods; the container is named instance."),
});
export type LLMPoolSpec = z.infer<typeof LLMPoolSpec>;

export const LLMPool = z.strictObject({
  apiVersion: z.literal(API_VERSION),
  kind: z.literal(KIND),
  metadata: z.looseObject({ name: z.string(), namespace: z.string().optional() }),
  spec: LLMPoolSpec,
  status: LLMPoolStatus.optional(),
});

/** A pool with its defaults filled in. */
export type LLMPool = z.infer<typeof LLMPool>;
