import { z } from "zod";
import { PodTemplate, rules, seconds, text } from "./fields.ts";
import { Router, Store } from "./front.ts";
import { Budgets, Episodes } from "./limits.ts";
import { BackendName, Model } from "./model.ts";
import { API_VERSION, KIND } from "./names.ts";
import { Gpu, Resources } from "./placement.ts";
import { contextSize, imageName, instanceCount, Roles, sessionCount, Variants } from "./roles.ts";
import { NAME_RULES, SPEC_RULES } from "./rules.ts";
import { LLMPoolStatus } from "./status.ts";

/**
 * The LLMPool resource. This schema is the one source of the CRD, of the types and of validation: shapes, bounds and defaults are zod's,
 * rules between fields are CEL in its metadata.
 */

export type { Backend } from "./model.ts";
export type { Role, Variant } from "./roles.ts";
export { LLMPoolStatus } from "./status.ts";

const Scaling = z.strictObject({
  minInstances: instanceCount().optional().describe("Fewest instances."),
  maxInstances: instanceCount().optional().describe("Most instances."),
  targetSessionsPerInstance: sessionCount().optional().describe("Sessions at which another instance starts."),
  scaleDownDelaySeconds: seconds(0, 86_400).optional().describe("Time of less load before an instance stops."),
});

const PrefixCache = z.strictObject({
  prefixes: z.boolean().optional().describe("Share snapshots of common prefixes between instances."),
  sizeLimitMiB: z.int32().min(0).max(16_777_216).optional().describe("Most space for snapshots, in MiB."),
});

const Stub = z.strictObject({
  ttftMs: z.number().min(0).max(3_600_000).default(0).describe("Time to the first token, in milliseconds."),
  interTokenMs: z.number().min(0).max(3_600_000).default(0).describe("Time between two tokens, in milliseconds."),
  replyTokens: z.int32().min(1).max(1_000_000).default(16).describe("Tokens of an answer."),
  errorRate: z.number().min(0).max(1).default(0).describe("Share of requests that fail, 0 to 1."),
});

export const LLMPoolSpec = z
  .strictObject({
    backend: BackendName,
    model: Model.optional().describe("The model. Every backend but stub needs one."),
    instances: instanceCount().default(5).describe("Isolated model processes of the default variant."),
    contextTokens: contextSize().default(4096).describe("Context of one session, in tokens."),
    sessionsPerInstance: sessionCount().default(4).describe("KV caches that one process keeps warm at once."),
    requestTimeoutSeconds: seconds(1, 86_400)
      .default(180)
      .describe("Most time one request may take, waiting included."),
    warmupPrompt: text(4096, 1).default("test").describe("Prompt of the inference that proves an instance ready."),
    rebindAfterSeconds: seconds(0, 86_400)
      .default(30)
      .describe("Time a session waits for its instance before it moves to another."),
    drainSeconds: seconds(0, 86_400).default(180).describe("Time that open requests get before an instance stops."),
    sessionTTLSeconds: seconds(1, 2_592_000)
      .default(7200)
      .describe("Time after its last use for which a session is kept."),
    resources: Resources.optional().describe("Resources of one instance."),
    roles: Roles.optional().describe("Agent roles. Default: planner, coder, runner, critic, summarizer."),
    variants: Variants.optional().describe("Other models for some roles."),
    episodes: Episodes.prefault({}).describe("How long a task of many requests may run."),
    budgets: Budgets.prefault({}).describe("How many tokens may be spent."),
    gpu: Gpu.optional().describe("Cards of the instances' pods."),
    scaling: Scaling.optional().describe("Reserved: not available yet."),
    cache: PrefixCache.optional().describe("Reserved: not available yet."),
    router: Router.prefault({}).describe("The router in front of all instances."),
    store: Store.optional().describe(
      "Where the router keeps episodes, budgets and session bindings. Default: a volume of 1Gi.",
    ),
    stub: Stub.prefault({}).describe("What backend stub simulates."),
    image: imageName().optional().describe("Runtime image of the instances, in place of the backend's own."),
    podTemplate: PodTemplate.optional().describe("Merged into the instances' pods; the container's name is instance."),
  })
  .meta(rules(...SPEC_RULES));
export type LLMPoolSpec = z.infer<typeof LLMPoolSpec>;

export const LLMPool = z
  .strictObject({
    apiVersion: z.literal(API_VERSION),
    kind: z.literal(KIND),
    metadata: z.looseObject({ name: z.string(), namespace: z.string().optional() }),
    spec: LLMPoolSpec.describe("What is wanted."),
    status: LLMPoolStatus.optional().describe("What is observed. Written by the operator."),
  })
  .meta(rules(...NAME_RULES))
  .describe("N isolated model processes with agent roles behind one role-aware router.");

/** A pool with its defaults filled in. */
export type LLMPool = z.infer<typeof LLMPool>;
