import type { LLMPoolStatus } from "../src/api/llmpool.ts";
import type { ConditionType, Reason } from "../src/api/names.ts";

export type Condition = NonNullable<LLMPoolStatus["conditions"]>[number];

/** One judgement, before it has a time. Reasons beyond the published ones are a runtime's or a kubelet's own. */
export interface Judgement {
  type: ConditionType;
  status: Condition["status"];
  reason: Reason | (string & {});
  message: string;
}

/** On the way to Ready, which a pool passes by itself. */
const STARTING: readonly string[] = ["Pending", "Loading", "WarmingUp", "Degraded"] satisfies Reason[];

export const isStarting = (reason: string | undefined): boolean => STARTING.includes(reason ?? "");

/** Judgements as conditions: the time moves when the status flips. @param now RFC 3339 */
export function conditionsOf(
  judgements: readonly Judgement[],
  before: readonly Condition[] | undefined,
  observedGeneration: number | undefined,
  now: string,
): Condition[] {
  return judgements.map(({ type, status, reason, message }) => {
    const known = before?.find((condition) => condition.type === type);
    return {
      type,
      status,
      ...(observedGeneration !== undefined && { observedGeneration }),
      lastTransitionTime: known?.status === status ? known.lastTransitionTime : now,
      reason,
      message: message.slice(0, 4096),
    };
  });
}
