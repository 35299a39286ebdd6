import type { InstanceConfig } from "../api/instance.ts";

/** One process that is wanted. The revision alone decides whether a running one is still the right one. */
export interface ProcessSpec {
  id: string;
  variant: string;
  revision: string;
  config: InstanceConfig;
  /** Hard limit of what the process may hold in memory. */
  memoryLimitBytes?: number;
  /** Most CPUs it may compute with. */
  cpuLimit?: number;
  /** Time its requests get to finish when it is stopped or replaced. */
  drainSeconds: number;
}
