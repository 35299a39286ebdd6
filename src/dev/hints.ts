import type { PoolPlan } from "../core/plan/types.ts";

type Env = Readonly<Record<string, string | undefined>>;

/** npm sets this for whatever it runs: from a checkout `llmpool` is not on the PATH. */
const throughNpm = (env: Env): boolean => env.npm_lifecycle_event !== undefined;

/** How to call this program again, before the name of a command. */
export const llmpoolCommand = (env: Env): string => (throughNpm(env) ? "npm run llmpool --" : "llmpool");

/** How to start a pool, with these flags. */
export function startCommand(env: Env, flags?: string): string {
  if (!throughNpm(env)) return ["llmpool dev -f pool.yaml", flags].filter(Boolean).join(" ");
  return flags === undefined ? "npm start" : `npm start -- ${flags}`;
}

/** What to type once the pool is ready. */
export function nextSteps(plan: PoolPlan, url: string, env: Env): string[] {
  const role = plan.roles[0]?.name ?? plan.pool;
  const body = JSON.stringify({ model: role, messages: [{ role: "user", content: "Hello" }] });
  const key = plan.router.auth.mode === "ApiKey" ? ' -H "authorization: Bearer $LLMPOOL_API_KEY"' : "";
  return [
    "ready; in another terminal, try:",
    `  curl ${url}/v1/chat/completions${key} -H 'content-type: application/json' -d '${body}'`,
    `  ${llmpoolCommand(env)} chat --role ${role}`,
  ];
}
