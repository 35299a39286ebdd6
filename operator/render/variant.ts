import type { LLMPool, Variant } from "../../src/api/llmpool.ts";
import type { Model } from "../../src/api/model.ts";
import { DEFAULT_VARIANT } from "../../src/api/names.ts";
import { planPool } from "../../src/core/plan/plan.ts";
import { revisionOf } from "../../src/core/plan/revision.ts";
import type { InstancePlan, PoolPlan, VariantPlan } from "../../src/core/plan/types.ts";
import { claimOf } from "./instance-volumes.ts";
import { type ModelLoad, modelLoad } from "./model-load.ts";
import { cacheName } from "./names.ts";

/** One variant with everything that its pods are made of: the plan, and the fields of the spec that only pods have. */
export interface RenderedVariant {
  pool: string;
  plan: VariantPlan;
  /** Its first instance as it is, or would be when scaled up from 0: pods are made in its image. */
  model: InstancePlan;
  pods: number;
  packed: boolean;
  resources: NonNullable<Variant["resources"]>;
  image: string | undefined;
  podTemplate: object | undefined;
  /** The volume for its model's files, where the pool asks for one and the model is one to be loaded. */
  cache: { claimName: string; made: { storage: string; storageClassName?: string } | undefined } | undefined;
  /** How the model comes onto that volume. */
  load: ModelLoad | undefined;
  /** What the weights take on the card, in bytes, as the pool's author says; undefined: nothing said. */
  statedBytes: number | undefined;
  /** Hash of what a running pod has to be replaced for, and of nothing that a new release of the operator brings. */
  podRevision: string;
}

/** The variants of a plan of this pool, in its order. */
export function variantsOf(pool: LLMPool, plan: PoolPlan): RenderedVariant[] {
  const full = plan.variants.every((v) => v.instances.length > 0) ? plan : planPool(withInstances(pool));
  return plan.variants.map((variant, at) => {
    const model = full.variants[at]?.instances[0];
    if (!model) throw new Error(`variant ${variant.name}: a plan without an instance`);
    return variantOf(pool, variant, model);
  });
}

function variantOf({ spec, metadata }: LLMPool, plan: VariantPlan, model: InstancePlan): RenderedVariant {
  const own: Partial<Variant> = spec.variants?.find(({ name }) => name === plan.name) ?? {};
  const packed = plan.gpu?.mode === "Packed";
  const resources = own.resources ?? spec.resources ?? {};
  const image = own.image ?? spec.image;
  const podTemplate = own.podTemplate ?? spec.podTemplate;
  const asked = model.backend === "stub" ? undefined : (own.model ?? spec.model);
  const loaded = !/^(file|pvc):/.test(asked?.uri ?? "file:");
  const cache =
    loaded && asked?.cache ? volumeOf(metadata.name, own.model ? plan.name : DEFAULT_VARIANT, asked.cache) : undefined;
  const podRevision = revisionOf({
    // A supervisor replaces what it holds by itself; volumes are the pod's.
    instance: packed
      ? { backend: model.backend, secret: model.modelSecret, claim: claimOf(model.model?.uri) }
      : model.revision,
    gpu: plan.gpu,
    resources,
    image: image || undefined,
    podTemplate,
    cache: asked?.cache,
  });
  const pods = plan.instances.reduce((most, { ordinal }) => Math.max(most, ordinal + 1), 0);
  return {
    pool: metadata.name,
    plan,
    model,
    pods,
    packed,
    resources,
    image: image || undefined,
    podTemplate,
    cache,
    load: cache && modelLoad(metadata.name, model, cache.claimName, plan.gpu !== undefined, podTemplate),
    statedBytes: asked?.memoryMiB ? asked.memoryMiB * 2 ** 20 : undefined,
    podRevision,
  };
}

function volumeOf(pool: string, owner: string, cache: NonNullable<Model["cache"]>): RenderedVariant["cache"] {
  const { claimName, storage, storageClassName } = cache;
  if (claimName !== undefined) return { claimName, made: undefined };
  return {
    claimName: cacheName(pool, owner),
    made: { storage: String(storage), ...(storageClassName !== undefined && { storageClassName }) },
  };
}

/** The same pool, with at least one instance everywhere. */
function withInstances(pool: LLMPool): LLMPool {
  const { spec } = pool;
  const variants = spec.variants?.map((v) => ({
    ...v,
    ...(v.instances !== undefined && { instances: Math.max(1, v.instances) }),
  }));
  return {
    ...pool,
    spec: { ...spec, instances: Math.max(1, spec.instances), ...(variants && { variants }) },
  };
}
