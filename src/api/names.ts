/** Every name that other programs read: they are part of the API and never change inside a version. */

export const GROUP = "llmpool.dev";
export const VERSION = "v1alpha1";
export const API_VERSION = "llmpool.dev/v1alpha1";
export const KIND = "LLMPool";

/** The default variant: the pool's own instances. */
export const DEFAULT_VARIANT = "default";

/** Who is what when `spec.roles` is absent. */
export const DEFAULT_ROLES = ["planner", "coder", "runner", "critic", "summarizer"] as const;

export const LABELS = {
  pool: "llmpool.dev/pool",
  variant: "llmpool.dev/variant",
  /** `instance`, `router` or `loader`. */
  component: "app.kubernetes.io/component",
  name: "app.kubernetes.io/name",
  managedBy: "app.kubernetes.io/managed-by",
} as const;

/** The headless Service of a pool's instances, in whose EndpointSlices its routers find them. */
export const instancesServiceOf = (pool: string): string => `${pool}-instances`;

export const ANNOTATIONS = {
  /** Hash of what an instance is started with. */
  revision: "llmpool.dev/revision",
} as const;

/** Containers of the pods, for whoever patches them through podTemplate. */
export const CONTAINERS = { instance: "instance", router: "router", loader: "loader" } as const;

/** `Reconciling` and `Stalled` appear only when True (kstatus). */
export const CONDITIONS = [
  "Ready",
  "InstancesReady",
  "RouterReady",
  "ModelAvailable",
  "Schedulable",
  "Progressing",
  "Reconciling",
  "Stalled",
] as const;
export type ConditionType = (typeof CONDITIONS)[number];

/** Reasons of conditions. The Ready condition's reason is the Status column: one word a person can read. */
export const REASONS = {
  Ready: "Ready",
  Pending: "Pending",
  Loading: "Loading",
  WarmingUp: "WarmingUp",
  Degraded: "Degraded",
  Failed: "Failed",
  ScaledToZero: "ScaledToZero",
  Invalid: "Invalid",
  SizeUnknown: "SizeUnknown",
  StoreEphemeral: "StoreEphemeral",
  InsufficientGpuMemory: "InsufficientGpuMemory",
  Unschedulable: "Unschedulable",
  ObjectTaken: "ObjectTaken",
  ApplyFailed: "ApplyFailed",
  Contested: "Contested",
  RollingOut: "RollingOut",
  Complete: "Complete",
  NotNeeded: "NotNeeded",
} as const;
export type Reason = keyof typeof REASONS;
