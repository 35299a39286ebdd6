import { z } from "zod";
import { formed, mapOf, objectName, Quantity, rules } from "./fields.ts";

/** What one instance gets of its machine. */
export const Resources = z.strictObject({
  limits: mapOf(16, Quantity).optional().describe("Most that one instance may take, such as memory: 12Gi."),
  requests: mapOf(16, Quantity).optional().describe("What one instance is sure to get. Default: its limits."),
});

export const Gpu = z
  .strictObject({
    mode: z
      .enum(["Exclusive", "Packed"])
      .optional()
      .describe(
        "Exclusive (default): a pod, with its cards, for each instance. Packed: several isolated instances in one pod on its card.",
      ),
    count: z.int32().min(1).max(64).optional().describe("Cards of one pod. Default 1."),
    instancesPerPod: z.int32().min(1).max(64).optional().describe("Packed: instances in one pod."),
    resource: formed(
      253,
      /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?[/][A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$/,
      "an extended resource such as nvidia.com/gpu",
    )
      .optional()
      .describe("Extended resource to ask for, such as nvidia.com/gpu (default) or nvidia.com/mig-1g.10gb."),
    runtimeClassName: objectName().optional().describe("Runtime class of the pods, such as nvidia."),
    resourceClaimTemplateName: objectName()
      .optional()
      .describe("ResourceClaimTemplate to claim the cards with, in place of resource."),
  })
  .meta(
    rules(
      {
        rule: "(has(self.mode) && self.mode == 'Packed') == has(self.instancesPerPod)",
        message:
          "gpu.instancesPerPod belongs to mode Packed: write both (mode: Packed, instancesPerPod: 5), or neither",
        fieldPath: ".instancesPerPod",
      },
      {
        rule: "!has(self.resourceClaimTemplateName) || (!has(self.resource) && !has(self.count))",
        message:
          "gpu.resourceClaimTemplateName already says which cards: remove resource and count, or write them without it",
        fieldPath: ".resourceClaimTemplateName",
      },
    ),
  );
