export type { ProcessSpec } from "../core/plan/process-spec.ts";
