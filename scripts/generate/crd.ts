import { LLMPool } from "../../src/api/llmpool.ts";
import { GROUP, KIND, VERSION } from "../../src/api/names.ts";
import { type Schema, structural } from "../../src/api/structural.ts";

const STANDARD = {
  apiVersion: {
    type: "string",
    description: "Version of the schema of this object: llmpool.dev/v1alpha1.",
  },
  kind: { type: "string", description: "Kind of this object: LLMPool." },
  metadata: { type: "object" },
} satisfies Record<string, Schema>;

/** Of a pool that no operator has looked at: older than any generation, so that who goes by kstatus (Helm, Flux, Argo CD) waits for one. */
const UNSEEN = { observedGeneration: -1 };

const READY = '.status.conditions[?(@.type=="Ready")]';

/** The CustomResourceDefinition of LLMPool. */
export function customResourceDefinition(): object {
  const { properties = {}, ...root } = structural(LLMPool);
  const status = { ...properties.status, default: UNSEEN };
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: { name: `llmpools.${GROUP}` },
    spec: {
      group: GROUP,
      names: {
        kind: KIND,
        listKind: `${KIND}List`,
        plural: "llmpools",
        singular: "llmpool",
        shortNames: ["llmp"],
        categories: ["llm"],
      },
      scope: "Namespaced",
      versions: [
        {
          name: VERSION,
          served: true,
          storage: true,
          schema: {
            openAPIV3Schema: { ...root, required: ["spec"], properties: { ...properties, status, ...STANDARD } },
          },
          subresources: {
            status: {},
            scale: {
              specReplicasPath: ".spec.instances",
              statusReplicasPath: ".status.instances",
              labelSelectorPath: ".status.selector",
            },
          },
          additionalPrinterColumns: [
            column("Backend", "string", ".spec.backend", "Engine of the instances."),
            column("Ready", "integer", ".status.readyInstances", "Instances that passed their warm-up."),
            column("Instances", "integer", ".spec.instances", "Instances wanted."),
            column("Status", "string", `${READY}.reason`, "How the pool is, in one word."),
            column("URL", "string", ".status.url", "Where clients find the router."),
            column("Age", "date", ".metadata.creationTimestamp", "Time since it was created."),
            column("Model", "string", ".spec.model.uri", "Where the model comes from.", 1),
            column("Context", "integer", ".spec.contextTokens", "Context of one session, in tokens.", 1),
            column("Message", "string", `${READY}.message`, "How the pool is, in a sentence.", 1),
          ],
        },
      ],
    },
  };
}

/** Columns of priority 1 appear with `-o wide`. */
function column(name: string, type: string, jsonPath: string, description: string, priority = 0): object {
  return { name, type, jsonPath, description, ...(priority > 0 && { priority }) };
}
