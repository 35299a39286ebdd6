import type { InstanceConfig } from "../../api/instance.ts";
import type { InstancePlan } from "./types.ts";

const NO_STUB: InstanceConfig["stub"] = { ttftMs: 0, interTokenMs: 0, replyTokens: 16, errorRate: 0 };

/** Where an instance runs: what differs between a pod and a process of this machine. */
export interface InstancePlace {
  host: string;
  /** 0: the operating system chooses. */
  port: number;
  metricsPort: number;
  tokenFile: string;
  cacheDir: string;
  stateDir: string;
  /** Where the model already is. Absent: the instance fetches it. */
  modelPath?: string | undefined;
  /** Time for running requests when a signal ends the process. Absent: a supervisor says it then. */
  drainSeconds?: number;
}

/** What an instance is told at its start; both appliers make it here, so that a pod and a process of one plan differ in their place alone. */
export function instanceConfig(
  pool: string,
  modelName: string,
  instance: InstancePlan,
  { modelPath, ...place }: InstancePlace,
): InstanceConfig {
  const { id, variant, backend, model, contextTokens, sessions } = instance;
  const { requestTimeoutSeconds, sessionTTLSeconds, warmupPrompt, stub } = instance;
  return {
    pool,
    id,
    variant,
    backend,
    ...place,
    ...(model && { model, modelName }),
    ...(modelPath !== undefined && { modelPath }),
    contextTokens,
    sessions,
    requestTimeoutSeconds,
    sessionTTLSeconds,
    warmupPrompt,
    // Nobody else reads it, and what nobody reads must not make one pod differ from another.
    stub: backend === "stub" ? stub : NO_STUB,
  };
}
