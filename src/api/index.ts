/** The public `llmpool/api`: the resource, its names, and how it is read and checked. */

export type * from "./backend.ts";
export { type Backend, LLMPool, LLMPoolSpec, LLMPoolStatus, type Role, type Variant } from "./llmpool.ts";
export { type LoadedPool, type LoadOptions, loadPool } from "./load.ts";
export {
  ANNOTATIONS,
  API_VERSION,
  CONDITIONS,
  CONTAINERS,
  type ConditionType,
  DEFAULT_ROLES,
  DEFAULT_VARIANT,
  GROUP,
  KIND,
  LABELS,
  REASONS,
  type Reason,
  VERSION,
} from "./names.ts";
export { ManifestError, type Problem } from "./problem.ts";
export { type Validation, validatePool } from "./validate.ts";
