import type { Backend } from "../../src/api/llmpool.ts";

/** What the operator knows besides the pool: its own place and what the cluster has. */
export interface RenderSettings {
  /** Runtime images by backend, and the router's. */
  images: Readonly<Record<Backend | "router", string>>;
  /** Where the operator runs: it may call instances. */
  operatorNamespace: string;
  /** Whether the cluster knows the kind PodMonitor. */
  podMonitors: boolean;
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
