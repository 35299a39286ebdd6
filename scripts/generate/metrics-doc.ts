import { validatePool } from "../../src/api/validate.ts";
import { planPool } from "../../src/core/plan/plan.ts";
import { makeRouterMetrics } from "../../src/router/metrics.ts";

/** The router's series as a table, from the registry itself. */
export function routerSeries(): string {
  const smallest = {
    apiVersion: "llmpool.dev/v1alpha1",
    kind: "LLMPool",
    metadata: { name: "any" },
    spec: { backend: "stub" },
  };
  const checked = validatePool(smallest);
  if (!checked.ok) throw new Error("the smallest pool is not valid any more");
  const { metrics } = makeRouterMetrics(planPool(checked.pool));
  const rows = metrics
    .describe()
    .map(
      ({ name, type, labels, help }) =>
        `| \`${name}\` | ${type} | ${labels.map((l) => `\`${l}\``).join(", ")} | ${help} |`,
    );
  return ["| series | type | labels | what |", "| --- | --- | --- | --- |", ...rows].join("\n");
}
