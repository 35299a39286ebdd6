import type { Backend } from "../../src/api/llmpool.ts";
import type { ModelFacts } from "../../src/api/model-facts.ts";

/** What images are for: routers, or the instances of a backend. */
export const IMAGES = ["router", "stub", "llama-cpp", "hf-cuda"] as const satisfies readonly (Backend | "router")[];

/** What the operator knows besides the pool: its own place and what the cluster has. */
export interface RenderSettings {
  images: Readonly<Record<(typeof IMAGES)[number], string>>;
  /** Where the operator runs: it may call instances. */
  operatorNamespace: string;
  /** Whether the cluster knows the kind PodMonitor. */
  podMonitors: boolean;
  /** Models that lie on their volumes, by the name of their ConfigMap. */
  facts?: ReadonlyMap<string, ModelFacts>;
}

/** The images of one release. `registry` is put in front: `registry.example.com/team`. */
export function defaultImages(version: string, registry = ""): RenderSettings["images"] {
  const image = (name: string) => `${registry === "" ? "" : `${registry}/`}llmpool/${name}:${version}`;
  return {
    router: image("llmpool"),
    stub: image("llmpool"),
    "llama-cpp": image("llama-cpp"),
    "hf-cuda": image("hf-cuda"),
  };
}
