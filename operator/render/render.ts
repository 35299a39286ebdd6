import type { LLMPool } from "../../src/api/llmpool.ts";
import type { PoolPlan } from "../../src/core/plan/types.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { routerAccess, variantPolicy } from "./access.ts";
import {
  cacheClaim,
  disruptionBudget,
  instancesBudget,
  instancesService,
  packedConfig,
  statefulSet,
} from "./instances.ts";
import { loadsOf, modelObject } from "./model-load.ts";
import { podMonitors } from "./monitor.ts";
import { namesOf, ownerOf } from "./names.ts";
import { routerDeployment, routerService, storeClaim } from "./router.ts";
import type { RenderSettings } from "./settings.ts";
import { type RenderedVariant, variantsOf } from "./variant.ts";

/**
 * Every object that a pool is made of, what others refer to first. The token's Secret is not among
 * them: it is random, made once, and never applied again. Same pool, plan and settings: the same bytes.
 */
export function renderPool(pool: LLMPool, plan: PoolPlan, settings: RenderSettings): KubeObject[] {
  const { name, namespace } = pool.metadata;
  const owner = ownerOf(pool);
  const variants = variantsOf(pool, plan);
  const objects: (KubeObject | undefined)[] = [
    ...routerAccess(name),
    routerService(pool),
    instancesService(name),
    storeClaim(plan),
    ...claimsOf(variants),
    ...loadsOf(variants).map((load) => modelObject(name, load, settings)),
    ...variants.flatMap((variant) => [
      variantPolicy(name, variant.plan, settings),
      ...(variant.packed ? [packedConfig(variant, settings)] : []),
      statefulSet(variant, settings),
    ]),
    routerDeployment(pool, plan, settings),
    instancesBudget(name),
    disruptionBudget(namesOf(name).routerParts, name, "router"),
    ...(settings.podMonitors ? podMonitors(plan) : []),
  ];
  return objects.flatMap((object) =>
    object === undefined
      ? []
      : {
          ...object,
          metadata: {
            ...object.metadata,
            ...(namespace !== undefined && { namespace }),
            ...(owner && { ownerReferences: [owner] }),
          },
        },
  );
}

/** Variants with one model share its volume. */
function claimsOf(variants: readonly RenderedVariant[]): KubeObject[] {
  const claims = variants.flatMap((variant) => cacheClaim(variant) ?? []);
  return [...new Map(claims.map((claim) => [claim.metadata.name, claim])).values()];
}
