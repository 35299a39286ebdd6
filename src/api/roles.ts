import { z } from "zod";
import { each } from "./each.ts";
import { formed, keyedBy, PodTemplate, rules, text } from "./fields.ts";
import { BackendName, Model } from "./model.ts";
import { Gpu, Resources } from "./placement.ts";

export const instanceCount = () => z.int32().min(0).max(256);
export const contextSize = () => z.int32().min(16).max(16_777_216);
export const sessionCount = () => z.int32().min(1).max(256);
export const imageName = () => text(512);

const variantName = () =>
  formed(12, /^[a-z]([-a-z0-9]*[a-z0-9])?$/, "at most 12 lower-case letters, digits and '-', beginning with a letter");

/** Every item's name is used once. Kubernetes refuses it too, for a list-map; this says what to write. */
const uniqueNames = (kind: string) =>
  each({
    of: "self",
    as: "a",
    holds: "self.exists_one(b, b.name == a.name)",
    kind,
    field: "name",
    label: `${kind}s:`,
    says: "a name is used twice: give each its own name",
  });

export const Role = z.strictObject({
  name: formed(
    63,
    /^[a-z0-9]([-._a-z0-9]*[a-z0-9])?$/,
    "lower-case letters and digits, with '-', '_' or '.' between them",
  ).describe("What a request names to reach this role."),
  variant: variantName().optional().describe("Variant that serves it. Default: the pool's own instances."),
  instance: z
    .int32()
    .min(0)
    .max(255)
    .optional()
    .describe(
      "The one instance of its variant that serves it, from 0. Without it, the variant's instances are dealt out to such roles in turn.",
    ),
  systemPrompt: text(16_384).optional().describe("Put in front of requests that have no system or developer message."),
});
export type Role = z.infer<typeof Role>;

export const Roles = z
  .array(Role)
  .max(64)
  .meta({ ...keyedBy("name"), ...rules(uniqueNames("role")) });

/** Another model for some roles. What it does not say, it takes from the pool's spec. */
export const Variant = z.strictObject({
  name: variantName()
    .describe("Name of the variant, and prefix of its instances' ids.")
    .meta(
      rules({
        rule: "!(self in ['default', 'router', 'instances'])",
        message: "variants[].name: default, router and instances are taken: write another name",
      }),
    ),
  backend: BackendName.optional(),
  model: Model.optional().describe("Its model, in place of the pool's as a whole."),
  instances: instanceCount().optional().describe("Its number of instances."),
  contextTokens: contextSize().optional().describe("Context of one session, in tokens."),
  sessionsPerInstance: sessionCount().optional().describe("KV caches that one process keeps warm at once."),
  resources: Resources.optional().describe("Resources of one instance, in place of the pool's as a whole."),
  gpu: Gpu.optional().describe("Cards of its pods, in place of the pool's as a whole."),
  image: imageName().optional().describe("Runtime image."),
  podTemplate: PodTemplate.optional().describe("Merged into its pods."),
});
export type Variant = z.infer<typeof Variant>;

export const Variants = z
  .array(Variant)
  .max(16)
  .meta({ ...keyedBy("name"), ...rules(uniqueNames("variant")) });
