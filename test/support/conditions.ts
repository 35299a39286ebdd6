import type { Pool } from "./pools.ts";

export function conditionOf({ status }: Pick<Pool, "status">, type: string) {
  return status?.conditions?.find((condition) => condition.type === type);
}

/** Whether the pool is Ready and nothing of this generation, or of its newest, is on its way. */
export function isAtRest(pool: Pool, generation = pool.metadata.generation): boolean {
  return (
    pool.status?.observedGeneration === generation &&
    conditionOf(pool, "Ready")?.status === "True" &&
    conditionOf(pool, "Progressing")?.status === "False"
  );
}
