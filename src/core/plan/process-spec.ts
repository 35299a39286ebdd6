import type { InstanceConfig } from "../../api/instance.ts";
import type { InstancePlan } from "./types.ts";

/** One process that is wanted. The revision alone decides whether a running one is still the right one. */
export interface ProcessSpec {
  id: string;
  variant: string;
  revision: string;
  config: InstanceConfig;
  /** Id of a process that must be Ready before this one starts, and after each new start of which this one is replaced in its turn. */
  after?: string;
  /** Hard limit of what the process may hold in memory. */
  memoryLimitBytes?: number;
  /** Most CPUs it may compute with. */
  cpuLimit?: number;
  /** Time its requests get to finish when it is stopped or replaced. */
  drainSeconds: number;
}

/** A planned instance as a process of a supervisor, on this machine or in a pod. */
export function processSpec(
  { id, variant, revision, drainSeconds, memoryLimitBytes, cpuLimit }: InstancePlan,
  config: InstanceConfig,
): ProcessSpec {
  return {
    id,
    variant,
    revision,
    drainSeconds,
    ...(memoryLimitBytes !== undefined && { memoryLimitBytes }),
    ...(cpuLimit !== undefined && { cpuLimit }),
    config,
  };
}
