import { maxTokensOf } from "../api/openai.ts";
import type { InstancePlan, PoolPlan } from "../core/plan/types.ts";
import type { AdmitRequest, BudgetClaim, BudgetView } from "../core/store.ts";
import { LLMPoolError } from "../lib/errors.ts";
import type { Caller } from "./auth.ts";
import type { Identity } from "./identify.ts";
import { countPrompt, type InferenceRequest } from "./request.ts";

const DAY_SECONDS = 86_400;

/** Every limit that applies to a request but the episode's own, which the store adds. */
export function claimsOf(plan: PoolPlan, caller: Caller, identity: Identity): BudgetClaim[] {
  const { roleTokens, poolTokensPerDay } = plan.router.budgets;
  const claims: BudgetClaim[] = [];
  const role = identity.role?.name;
  const roleLimit = role === undefined ? 0 : (roleTokens[role] ?? 0);
  if (role !== undefined && roleLimit > 0) {
    // Outside of an episode a role has the same number a day: leaving the episode out opens no fresh budget with each call.
    const { episodeId } = identity;
    const claim = { scope: "role", id: role, limit: roleLimit } as const;
    claims.push(episodeId === undefined ? { ...claim, windowSeconds: DAY_SECONDS } : { ...claim, episodeId });
  }
  if (poolTokensPerDay > 0) {
    claims.push({ scope: "pool", id: "pool", limit: poolTokensPerDay, windowSeconds: DAY_SECONDS });
  }
  if (caller.budget) {
    const { tokens, windowSeconds } = caller.budget;
    claims.push({ scope: "key", id: caller.tenant, limit: tokens, windowSeconds });
  }
  return claims;
}

/** The most tokens a request can cost, and the least with which it makes sense. Neither is ever more than the context. */
export function worstCase(request: InferenceRequest, instance: InstancePlan) {
  const context = instance.contextTokens;
  const promptTokens = countPrompt(request, instance.backend);
  const completion = maxTokensOf(request.checked) ?? context;
  return {
    promptTokens: Math.min(promptTokens, context),
    worst: Math.min(promptTokens + completion, context),
    minimum: Math.min(promptTokens + 1, context),
  };
}

/** The budget that leaves least; of equals the first, which is the episode's. */
export function tightestOf(budgets: readonly BudgetView[]): BudgetView | undefined {
  let tightest: BudgetView | undefined;
  let least = Number.POSITIVE_INFINITY;
  for (const budget of budgets) {
    const left = budget.limit - budget.spent - budget.reserved;
    if (left >= least) continue;
    least = left;
    tightest = budget;
  }
  return tightest;
}

/** Says what the request needs beside what is left, and only what would help. */
export function deniedError(budget: BudgetView, { worstCase: worst, minimum }: AdmitRequest): LLMPoolError {
  const { scope, id, limit, spent, reserved, resetSeconds } = budget;
  const left = Math.max(0, limit - spent - reserved);
  const has = `the ${scope} budget of ${id} has ${left} of ${limit} tokens left (${spent} spent, ${reserved} reserved)`;
  const when = resetSeconds === undefined ? "" : `; it opens again in ${Math.ceil(resetSeconds)} s`;
  const [needs, param] =
    left < minimum
      ? [`the prompt alone may count ${minimum - 1}: shorten it, or have the budget raised`, "messages"]
      : [
          `this request may take ${worst}: lower max_tokens to ${left - minimum + 1}, or send x-llmpool-budget: clamp`,
          "max_tokens",
        ];
  return new LLMPoolError("budget_exhausted", `${has}, and ${needs}${when}`, { param });
}
