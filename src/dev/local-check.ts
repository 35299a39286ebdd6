import type { LLMPool } from "../api/llmpool.ts";
import type { Problem } from "../api/problem.ts";
import type { PoolPlan } from "../core/plan/types.ts";

/** What the command line gave for Kubernetes objects that are not here: names to folders. */
export interface LocalMounts {
  volumes: ReadonlyMap<string, string>;
  /** Names of the secrets that there are, from the file and the command line. */
  secrets: ReadonlySet<string>;
}

/** What of a valid pool cannot run on one machine, each with its cure. */
export function localProblems(pool: LLMPool, plan: PoolPlan, { volumes, secrets }: LocalMounts): Problem[] {
  const problems: Problem[] = [];
  const needSecret = (path: string, name: string) => {
    if (secrets.has(name)) return;
    problems.push({
      path,
      message: `there is no Secret ${name} here: put it into the file, or give --secret ${name}=DIR`,
    });
  };
  for (const { name, instances } of plan.variants) {
    const path = name === "default" ? "spec" : `spec.variants[${name}]`;
    const [first] = instances;
    const claim = /^pvc:\/\/([^/]+)/.exec(first?.model?.uri ?? "")?.[1];
    if (claim && !volumes.has(claim)) {
      problems.push({
        path: `${path}.model.uri`,
        message: `the claim ${claim} is not here: give --volume ${claim}=DIR`,
      });
    }
    if (first?.modelSecret) needSecret(`${path}.model.secretRef`, first.modelSecret.name);
  }
  const { auth, store } = plan.router;
  if (auth.mode === "ApiKey") needSecret("spec.router.auth.secretName", auth.secretName);
  if (store.kind === "redis") needSecret("spec.store.redisSecretRef", store.secretName);
  if (pool.spec.router.replicas > 1) {
    problems.push({ path: "spec.router.replicas", message: "local mode runs one router: write 1" });
  }
  return problems;
}

/** Fields that only mean something on a cluster and that the file has. */
export function leftOut({ spec }: LLMPool): string[] {
  const variants = spec.variants ?? [];
  return [
    ...(["gpu", "podTemplate", "image"] as const).filter((field) =>
      [spec, ...variants].some((one) => one[field] !== undefined),
    ),
    ...(spec.router.podTemplate === undefined ? [] : ["router.podTemplate"]),
  ];
}
