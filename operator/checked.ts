import { isDeepStrictEqual } from "node:util";
import type { LLMPool } from "../src/api/llmpool.ts";
import { validatePool } from "../src/api/validate.ts";
import { planPool } from "../src/core/plan/plan.ts";
import type { PoolPlan } from "../src/core/plan/types.ts";
import type { KubeObject } from "../src/kube/object.ts";

/** A pool with its defaults and its plan, or every problem of it in one line. Shared: never change it. */
export type CheckedPool = { pool: LLMPool; plan: PoolPlan } | { problems: string };

/** Pools checked and planned: once for each spec, however often a pool is looked at. */
export class Checked {
  readonly #known = new Map<string, { uid: string | undefined; spec: unknown; checked: CheckedPool }>();

  /** @param stored without its status */
  of(key: string, stored: KubeObject & { spec?: unknown }): CheckedPool {
    const known = this.#known.get(key);
    const { uid } = stored.metadata;
    // Not by its generation: a resource definition with another default changes what is read, and no generation.
    if (known && known.uid === uid && isDeepStrictEqual(known.spec, stored.spec)) return known.checked;
    const checked = check(stored);
    this.#known.set(key, { uid, spec: stored.spec, checked });
    return checked;
  }

  forget(key: string): void {
    this.#known.delete(key);
  }
}

function check(stored: KubeObject): CheckedPool {
  const checked = validatePool(structuredClone(stored));
  if (checked.ok) return { pool: checked.pool, plan: planPool(checked.pool) };
  return { problems: checked.problems.map(({ path, message }) => `${path}: ${message}`).join("; ") };
}
