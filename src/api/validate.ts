import type { z } from "zod";
import { brokenRules, explainRule, UNKNOWN } from "./cel.ts";
import { applyDefaults, isObject, schemaAt } from "./defaults.ts";
import { LLMPool } from "./llmpool.ts";
import { nearest } from "./nearest.ts";
import type { Problem } from "./problem.ts";
import { explainIssue } from "./shape.ts";
import { type Schema, structural } from "./structural.ts";

export type Validation = { ok: true; pool: LLMPool } | { ok: false; problems: Problem[] };

let schema: Schema | undefined;

/**
 * What an API server would say to this manifest, all at once: shape and bounds, unknown fields, then the CEL rules of the CRD, as far as they
 * are broken whatever is written in place of what has no right shape. A valid manifest comes back with its defaults filled in.
 */
export function validatePool(manifest: unknown): Validation {
  if (!isObject(manifest))
    return {
      ok: false,
      problems: [{ path: "", message: "is not an object: write apiVersion, kind, metadata and spec" }],
    };
  schema ??= structural(LLMPool);
  const root = schema;
  const pool = structuredClone(manifest);
  applyDefaults(pool, root);
  const shape = LLMPool.safeParse(pool, { reportInput: true });
  const issues = shape.error?.issues ?? [];
  const problems = issues.flatMap((issue) => explainIssue(issue, root));
  for (const path of issues.flatMap((issue) => doubtful(issue, manifest, root))) forget(pool, path);
  problems.push(...brokenRules(pool, root).flatMap(explainRule));
  return shape.success && problems.length === 0 ? { ok: true, pool: shape.data } : { ok: false, problems };
}

/** What will be another value once the issue is cured: of a field that there is not, the field that was meant and not written. */
function doubtful(issue: z.core.$ZodIssue, manifest: unknown, root: Schema): PropertyKey[][] {
  if (issue.code !== "unrecognized_keys") return [issue.path];
  const known = Object.keys(schemaAt(root, issue.path)?.properties ?? {});
  const written = valueAt(manifest, issue.path);
  return issue.keys
    .map((key) => nearest(key, known))
    .filter((meant) => meant !== undefined && (written as Record<string, unknown>)[meant] == null)
    .map((meant) => [...issue.path, meant as string]);
}

function forget(pool: unknown, path: readonly PropertyKey[]): void {
  const holder = valueAt(pool, path.slice(0, -1));
  if (typeof holder === "object" && holder !== null) Object.assign(holder, { [path.at(-1) ?? ""]: UNKNOWN });
}

const valueAt = (value: unknown, path: readonly PropertyKey[]): unknown =>
  path.reduce((at, step) => (at as Record<PropertyKey, unknown> | undefined)?.[step], value);
