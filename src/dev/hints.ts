import type { PoolPlan } from "../core/plan/types.ts";

/** What to type once the pool is ready. */
export function nextSteps(plan: PoolPlan, url: string, env: Readonly<Record<string, string | undefined>>): string[] {
  const role = plan.roles[0]?.name ?? plan.pool;
  const body = JSON.stringify({ model: role, messages: [{ role: "user", content: "Hello" }] });
  const key = plan.router.auth.mode === "ApiKey" ? ' -H "authorization: Bearer $LLMPOOL_API_KEY"' : "";
  // npm sets this for whatever it runs.
  const llmpool = env.npm_lifecycle_event === undefined ? "llmpool" : "npm run llmpool --";
  return [
    "ready; in another terminal, try:",
    `  curl ${url}/v1/chat/completions${key} -H 'content-type: application/json' -d '${body}'`,
    `  ${llmpool} chat --role ${role}`,
  ];
}
