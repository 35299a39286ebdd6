import { z } from "zod";
import { keyedBy, text } from "./fields.ts";
import { INSTANCE_STATES } from "./instance.ts";

const count = () => z.int32().min(0);

/** metav1.Condition. */
export const Condition = z.strictObject({
  type: text(316, 1).describe("What is judged, such as Ready."),
  status: z.enum(["True", "False", "Unknown"]).describe("The judgement."),
  observedGeneration: z.int().min(0).optional().describe("The spec's generation that was judged."),
  lastTransitionTime: text(64).meta({ format: "date-time" }).describe("When status last changed."),
  reason: text(1024, 1).describe("One CamelCase word for programs and for the Status column."),
  message: text(32768).describe("A sentence for people."),
});
export type Condition = z.infer<typeof Condition>;

export const RoleStatus = z.strictObject({
  name: text(63).describe("The role."),
  instances: z.array(text(32)).max(256).optional().describe("Ids of the instances that serve it."),
});

export const InstanceStatus = z.strictObject({
  id: text(32).describe("Instance id, as in every header and metric: 0, code-0."),
  variant: text(12).describe("Variant that it belongs to."),
  pod: text(253).optional().describe("Pod that holds it."),
  state: z.enum(INSTANCE_STATES).describe("What it does now."),
  node: text(253).optional().describe("Node of the pod."),
  device: text(253).optional().describe("What computes: the GPU's name, or CPU."),
  warmupSeconds: z.number().min(0).optional().describe("How long the warm-up inference took."),
  tokensPerSecond: z.number().min(0).optional().describe("Its measured speed."),
  restarts: count().optional().describe("Starts after the first."),
  message: text(1024).optional().describe("Why it is not Ready."),
});
export type InstanceStatus = z.infer<typeof InstanceStatus>;

export const LLMPoolStatus = z.strictObject({
  observedGeneration: z
    .int()
    .min(-1)
    .optional()
    .describe("The spec's generation that this status speaks of; -1: of none yet."),
  desiredInstances: count().optional().describe("Instances wanted, of the default variant."),
  instances: count().optional().describe("Instances that exist, of the default variant."),
  readyInstances: count().optional().describe("Instances that passed their warm-up, of the default variant."),
  selector: text(512).optional().describe("Label selector of the default variant's pods, for the scale subresource."),
  url: text(512).optional().describe("Where clients find the router."),
  roles: z.array(RoleStatus).max(64).optional().describe("Which instances serve which role.").meta(keyedBy("name")),
  instanceStatuses: z.array(InstanceStatus).max(4352).optional().describe("Every instance.").meta(keyedBy("id")),
  conditions: z.array(Condition).max(16).optional().describe("Ready and what it is made of.").meta(keyedBy("type")),
});
export type LLMPoolStatus = z.infer<typeof LLMPoolStatus>;
