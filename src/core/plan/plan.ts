import type { Quantity } from "../../api/fields.ts";
import type { LLMPool, Role, Variant } from "../../api/llmpool.ts";
import { DEFAULT_ROLES, DEFAULT_VARIANT } from "../../api/names.ts";
import { ownersOf } from "../mapping.ts";
import { parseQuantity } from "../quantity.ts";
import { modelName } from "./model-name.ts";
import { revisionOf } from "./revision.ts";
import type { GpuPlan, InstancePlan, PoolPlan, RolePlan, RouterPlan, VariantPlan } from "./types.ts";

const PORT = 8000;
const METRICS_PORT = 8001;
/** Packed instances serve on 8000 + slot, so their metrics move out of the way: 8100 + slot. */
const PACKED_METRICS_PORT = 8100;
/** Volume of the one router when the spec says nothing. */
const STORE_STORAGE = "1Gi";
const GPU_RESOURCE = "nvidia.com/gpu";

/** The desired state of a valid pool. Throws only on a pool that validation refuses. */
export function planPool(pool: LLMPool): PoolPlan {
  const variants = [
    planVariant(pool, { name: DEFAULT_VARIANT }),
    ...(pool.spec.variants ?? []).map((v) => planVariant(pool, v)),
  ];
  return {
    pool: pool.metadata.name,
    namespace: pool.metadata.namespace ?? "default",
    variants,
    roles: planRoles(pool.spec.roles ?? DEFAULT_ROLES.map((name) => ({ name })), variants),
    router: planRouter(pool.spec),
  };
}

/** A variant is the pool's own spec with what it overrides; its model replaces the pool's as a whole. */
function planVariant({ spec }: LLMPool, variant: Variant): VariantPlan {
  const { name } = variant;
  const backend = variant.backend ?? spec.backend;
  if (backend === "openai-compatible")
    throw new Error(`variant ${name}: backend openai-compatible is not available yet`);
  const model = backend === "stub" ? undefined : (variant.model ?? spec.model);
  const limits = (variant.resources ?? spec.resources)?.limits;
  const gpu = planGpu(variant.gpu ?? spec.gpu);
  const packed = gpu?.instancesPerPod ?? 1;
  const started = {
    backend,
    ...(model && {
      model: {
        uri: model.uri,
        sha256: (model.sha256 ?? "").toLowerCase(),
        quantization: model.quantization || (backend === "hf-cuda" ? "nf4" : ""),
      },
    }),
    ...(model?.secretRef && { modelSecret: { name: model.secretRef.name, key: model.secretRef.key } }),
    contextTokens: variant.contextTokens ?? spec.contextTokens,
    sessions: variant.sessionsPerInstance ?? spec.sessionsPerInstance,
    requestTimeoutSeconds: spec.requestTimeoutSeconds,
    sessionTTLSeconds: spec.sessionTTLSeconds,
    warmupPrompt: spec.warmupPrompt,
    ...limit("memoryLimitBytes", limits?.memory),
    ...limit("cpuLimit", limits?.cpu),
    stub: { ...spec.stub },
  };
  const revision = revisionOf(backend === "stub" ? started : { ...started, stub: undefined });
  const instances = Array.from({ length: variant.instances ?? spec.instances }, (_, index): InstancePlan => {
    const slot = index % packed;
    return {
      id: name === DEFAULT_VARIANT ? `${index}` : `${name}-${index}`,
      variant: name,
      index,
      ordinal: Math.floor(index / packed),
      slot,
      port: PORT + slot,
      metricsPort: gpu?.mode === "Packed" ? PACKED_METRICS_PORT + slot : METRICS_PORT,
      ...started,
      drainSeconds: spec.drainSeconds,
      revision,
    };
  });
  return { name, backend, modelName: modelName(backend, model?.uri), ...(gpu && { gpu }), instances };
}

/** 0 is no limit, as on a cluster. */
function limit<K extends string>(name: K, quantity: Quantity = 0): { [key in K]?: number } {
  const amount = Math.ceil(parseQuantity(quantity));
  return amount === 0 ? {} : ({ [name]: amount } as { [key in K]: number });
}

function planGpu(gpu: Variant["gpu"]): GpuPlan | undefined {
  if (!gpu) return undefined;
  const { mode = "Exclusive", resourceClaimTemplateName, runtimeClassName } = gpu;
  return {
    mode,
    count: gpu.count ?? 1,
    instancesPerPod: mode === "Packed" ? (gpu.instancesPerPod ?? 1) : 1,
    ...(resourceClaimTemplateName === undefined
      ? { resource: gpu.resource ?? GPU_RESOURCE }
      : { resourceClaimTemplateName }),
    ...(runtimeClassName !== undefined && { runtimeClassName }),
  };
}

function planRoles(roles: readonly Role[], variants: readonly VariantPlan[]): RolePlan[] {
  const shared = new Map<string, string[]>();
  for (const role of roles) {
    const variant = role.variant ?? DEFAULT_VARIANT;
    if (role.instance === undefined) shared.set(variant, [...(shared.get(variant) ?? []), role.name]);
  }
  return roles.map((role): RolePlan => {
    const variant = variants.find((v) => v.name === (role.variant ?? DEFAULT_VARIANT));
    if (!variant) throw new Error(`role ${role.name}: there is no variant ${role.variant}`);
    const peers = shared.get(variant.name) ?? [];
    const owned =
      role.instance === undefined
        ? ownersOf(peers.indexOf(role.name), peers.length, variant.instances.length)
        : [role.instance];
    return {
      name: role.name,
      variant: variant.name,
      instances: owned.flatMap((index) => variant.instances[index]?.id ?? []),
      ...(role.systemPrompt !== undefined && { systemPrompt: role.systemPrompt }),
    };
  });
}

function planRouter(spec: LLMPool["spec"]): RouterPlan {
  const { router, store, budgets } = spec;
  const { mode, secretName } = router.auth;
  return {
    replicas: router.replicas,
    queuePerInstance: router.queuePerInstance,
    maxBodyBytes: router.maxBodyMiB * 2 ** 20,
    auth: mode === "ApiKey" ? { mode, secretName: secretName ?? "" } : { mode: "None" },
    store: planStore(store),
    requestTimeoutSeconds: spec.requestTimeoutSeconds,
    rebindAfterSeconds: spec.rebindAfterSeconds,
    drainSeconds: spec.drainSeconds,
    sessionTTLSeconds: spec.sessionTTLSeconds,
    episodes: { ...spec.episodes },
    budgets: { ...budgets, roleTokens: { ...budgets.roleTokens } },
  };
}

function planStore(store: LLMPool["spec"]["store"]): RouterPlan["store"] {
  if (store?.redisSecretRef)
    return { kind: "redis", secretName: store.redisSecretRef.name, key: store.redisSecretRef.key };
  if (store?.ephemeral) return { kind: "embedded", ephemeral: true };
  return { kind: "embedded", ephemeral: false, storage: String(store?.storage ?? STORE_STORAGE) };
}
