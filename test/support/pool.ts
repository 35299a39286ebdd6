import type { LLMPool } from "../../src/api/llmpool.ts";
import { validatePool } from "../../src/api/validate.ts";
import { planPool } from "../../src/core/plan/plan.ts";
import type { PoolPlan } from "../../src/core/plan/types.ts";

/** An LLMPool manifest with this spec, as a file holds it. */
export function manifest(spec: unknown, name = "apex"): Record<string, unknown> {
  return { apiVersion: "llmpool.dev/v1alpha1", kind: "LLMPool", metadata: { name }, spec };
}

/** The checked pool, defaults filled in; a test that gives an invalid one fails with the problems. */
export function pool(spec: object, name?: string): LLMPool {
  const checked = validatePool(manifest(spec, name));
  if (!checked.ok) throw new Error(JSON.stringify(checked.problems, null, 2));
  return checked.pool;
}

/** The plan of a stub pool with this spec. */
export function poolPlan(spec: object, name?: string): PoolPlan {
  return planPool(pool({ backend: "stub", ...spec }, name));
}
