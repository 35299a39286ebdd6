import { brokenRules, explainRule } from "./cel.ts";
import { applyDefaults, isObject } from "./defaults.ts";
import { LLMPool } from "./llmpool.ts";
import type { Problem } from "./problem.ts";
import { explainIssue } from "./shape.ts";
import { type Schema, structural } from "./structural.ts";

export type Validation = { ok: true; pool: LLMPool } | { ok: false; problems: Problem[] };

let schema: Schema | undefined;

/**
 * What an API server would say to this manifest, all at once: shape and bounds, unknown fields, then the CEL rules of the CRD (unless a value
 * has the wrong type, when rules would say nothing true). A valid manifest comes back with its defaults filled in.
 */
export function validatePool(manifest: unknown): Validation {
  if (!isObject(manifest))
    return {
      ok: false,
      problems: [{ path: "", message: "is not an object: write apiVersion, kind, metadata and spec" }],
    };
  schema ??= structural(LLMPool);
  const pool = structuredClone(manifest);
  applyDefaults(pool, schema);
  const shape = LLMPool.safeParse(pool, { reportInput: true });
  const issues = shape.error?.issues ?? [];
  const wrongTypes = issues.some((issue) => ["invalid_type", "invalid_union", "invalid_value"].includes(issue.code));
  const root = schema;
  const problems = issues.flatMap((issue) => explainIssue(issue, root));
  if (!wrongTypes) problems.push(...brokenRules(pool, schema).flatMap(explainRule));
  return shape.success && problems.length === 0 ? { ok: true, pool: shape.data } : { ok: false, problems };
}
