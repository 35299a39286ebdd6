import type { Backend, LLMPool } from "../../api/llmpool.ts";

/**
 * The desired state of one pool: pure data that `llmpool render` prints and that both appliers execute, one as pods, one as processes.
 * Same resource, same plan: no clock, no random value, no machine in it.
 */
export interface PoolPlan {
  pool: string;
  namespace: string;
  /** The default variant first, then in the order of the spec. */
  variants: VariantPlan[];
  roles: RolePlan[];
  router: RouterPlan;
}

export interface VariantPlan {
  /** `default` for the pool's own instances. */
  name: string;
  backend: Backend;
  /** What /v1/models lists: the last part of the URI without its ending; `stub` for the stub. */
  modelName: string;
  /** Absent: its pods ask for no card. Local mode leaves it out. */
  gpu?: GpuPlan;
  instances: InstancePlan[];
}

export interface GpuPlan {
  mode: "Exclusive" | "Packed";
  /** Cards of one pod. */
  count: number;
  /** 1 unless Packed. */
  instancesPerPod: number;
  /** Extended resource to ask for; absent with a claim template. */
  resource?: string;
  resourceClaimTemplateName?: string;
  runtimeClassName?: string;
}

export interface InstancePlan {
  /** `0`, or `code-0`: the name in every header, body, status and metric. */
  id: string;
  variant: string;
  /** Position inside the variant, from 0. */
  index: number;
  /** Ordinal of the pod that holds it, and its place in that pod (0 unless Packed). */
  ordinal: number;
  slot: number;
  /** In a pod. Local processes take free ports of the loopback address. */
  port: number;
  metricsPort: number;
  backend: Backend;
  /** Empty texts: not given. */
  model?: { uri: string; sha256: string; quantization: string };
  /** Access token for the model's source. */
  modelSecret?: { name: string; key: string };
  contextTokens: number;
  sessions: number;
  requestTimeoutSeconds: number;
  drainSeconds: number;
  sessionTTLSeconds: number;
  warmupPrompt: string;
  /** Hard limit of the process, from resources.limits.memory. */
  memoryLimitBytes?: number;
  /** CPUs from resources.limits.cpu, rounded up. */
  cpuLimit?: number;
  stub: { ttftMs: number; interTokenMs: number; replyTokens: number; errorRate: number };
  /**
   * Hash of everything above that the process is started with, equal for all instances of a variant: when it changes, they are replaced.
   * What names or places an instance (id, ports, pod) and what is told to it later (drainSeconds) is not in it.
   */
  revision: string;
}

export interface RolePlan {
  name: string;
  variant: string;
  /** Ids of the instances that a new session of this role may take; never empty while the variant has instances. */
  instances: string[];
  systemPrompt?: string;
}

/** Everything the router needs and nothing an instance needs: a change here restarts no instance. */
export interface RouterPlan {
  replicas: number;
  queuePerInstance: number;
  maxBodyBytes: number;
  auth: { mode: "None" } | { mode: "ApiKey"; secretName: string };
  store:
    | { kind: "embedded"; ephemeral: boolean; storage?: string }
    | { kind: "redis"; secretName: string; key: string };
  requestTimeoutSeconds: number;
  rebindAfterSeconds: number;
  drainSeconds: number;
  sessionTTLSeconds: number;
  episodes: Required<NonNullable<LLMPool["spec"]["episodes"]>>;
  budgets: { episodeTokens: number; roleTokens: Record<string, number>; poolTokensPerDay: number };
}
