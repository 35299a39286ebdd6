import type { LLMBackend, LoadProgress } from "../src/api/backend.ts";
import type { InstanceConfig } from "../src/api/instance.ts";
import type { Clock } from "../src/lib/clock.ts";
import type { Logger } from "../src/lib/logger.ts";

/** What a backend gets besides its configuration. */
export interface BackendDeps {
  clock: Clock;
  log: Logger;
  /** Called with what is loaded so far. */
  onProgress(progress: LoadProgress): void;
  /** Aborts loading. */
  signal: AbortSignal;
}

/** Loads the model. By then `config.modelPath` is set for every backend that has one. An error with a `reason` (FailureReason) tells why. */
export type CreateBackend = (config: InstanceConfig, deps: BackendDeps) => Promise<LLMBackend>;

/** One module per engine, loaded when it is wanted: no process carries another engine's code. */
export async function createBackend(config: InstanceConfig, deps: BackendDeps): Promise<LLMBackend> {
  switch (config.backend) {
    case "stub":
      return (await import("./stub/backend.ts")).createBackend(config, deps);
    case "llama-cpp":
      return (await import("./llama-cpp/backend.ts")).createBackend(config, deps);
    case "hf-cuda":
      throw new Error("hf-cuda instances are a Python program of their own");
  }
}
