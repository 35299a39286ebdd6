import { z } from "zod";
import { objectName, PodTemplate, Quantity, rules, SecretKeyRef } from "./fields.ts";

const Auth = z.strictObject({
  mode: z
    .enum(["None", "ApiKey"])
    .default("None")
    .describe("None: every caller is the same tenant. ApiKey: callers send a key, and see only what is theirs."),
  secretName: objectName().optional().describe("Secret with one entry per caller. Needed by mode ApiKey."),
});

/** The process in front of all instances. */
export const Router = z.strictObject({
  replicas: z.int32().min(1).max(16).default(1).describe("Router pods. More than one needs store.redisSecretRef."),
  queuePerInstance: z.int32().min(0).max(65_536).default(64).describe("Requests that may wait for one instance."),
  maxBodyMiB: z.int32().min(1).max(1024).default(8).describe("Largest request body, in MiB."),
  auth: Auth.prefault({}).describe("Who may call."),
  serviceType: z
    .enum(["ClusterIP", "NodePort", "LoadBalancer"])
    .optional()
    .describe("Type of the router's Service. Default ClusterIP."),
  podTemplate: PodTemplate.optional().describe("Merged into the router's pods; the container's name is router."),
});

const OPTED_OUT = "has(self.ephemeral) && self.ephemeral";

/** Where episodes, budgets and session bindings are kept. */
export const Store = z
  .strictObject({
    redisSecretRef: SecretKeyRef.optional().describe(
      "Secret key with the URL of a Redis or Valkey. Needed by several routers.",
    ),
    storage: Quantity.optional().describe("Size of the one router's volume. Default 1Gi."),
    ephemeral: z.boolean().optional().describe("Keep the one router's state in its pod, and lose it with the pod."),
  })
  .meta(
    rules(
      {
        rule: `!has(self.redisSecretRef) || !(has(self.storage) || (${OPTED_OUT}))`,
        message:
          "store.redisSecretRef keeps the state in Redis: remove store.storage and store.ephemeral, or remove redisSecretRef",
        fieldPath: ".redisSecretRef",
      },
      {
        rule: `!has(self.storage) || !(${OPTED_OUT})`,
        message: "store.ephemeral keeps no volume: remove store.storage, or write ephemeral: false",
        fieldPath: ".ephemeral",
      },
    ),
  );
