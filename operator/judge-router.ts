import type { PoolPlan } from "../src/core/plan/types.ts";
import type { Judgement } from "./conditions.ts";
import type { Observed } from "./gather.ts";
import { DENIED, type PodState, podStateIn, reasonOf } from "./pod-state.ts";
import type { Words } from "./words.ts";

interface Seen {
  plan: Pick<PoolPlan, "router">;
  observed: Pick<Observed, "router">;
  words: Words;
}

/** One router that serves is enough. What another lacks is in the message. */
export function judgeRouter(seen: Seen): Judgement {
  const type = "RouterReady";
  const { store, replicas } = seen.plan.router;
  const available = seen.observed.router.deployment?.status?.availableReplicas ?? 0;
  if (available > 0) {
    const trouble = routerTrouble(seen);
    const parts = [
      `${available} of ${replicas} routers serve`,
      ...(trouble ? [`a router cannot start: ${trouble.message}`] : []),
    ];
    if (store.kind !== "embedded" || !store.ephemeral)
      return { type, status: "True", reason: "Ready", message: parts.join("; ") };
    const warning = "episodes, budgets and bindings go with its pod (store.ephemeral)";
    return { type, status: "True", reason: "StoreEphemeral", message: [...parts, warning].join("; ") };
  }
  const states = statesOf(seen);
  const worst = states.find(isTrouble) ?? states.find(({ message }) => message !== undefined);
  const message = `no router serves${worst?.message ? `: ${worst.message}` : ""}`;
  return { type, status: "False", reason: reasonOf(worst), message };
}

/** Whether the Deployment is as the plan has it, with no pod of before. */
export function isRouterAsWanted({ plan, observed: { router } }: Omit<Seen, "words">): boolean {
  const { metadata, status = {} } = router.deployment ?? {};
  const { replicas = 0, updatedReplicas = 0, availableReplicas = 0, observedGeneration = 0 } = status;
  if (observedGeneration < (metadata?.generation ?? 1)) return false;
  return Math.min(updatedReplicas, availableReplicas) >= plan.router.replicas && replicas <= updatedReplicas;
}

/** Why the router does not become what is wanted, also while those of before serve; undefined: it does, or nothing says that it will not. */
export function routerTrouble(seen: Seen): PodState | undefined {
  if (isRouterAsWanted(seen)) return undefined;
  const states = statesOf(seen);
  return states.find(({ state }) => state === "Failed") ?? states.find(isTrouble);
}

const isTrouble = ({ state, reason = "" }: PodState): boolean => state === "Failed" || DENIED.has(reason);

function statesOf({ observed: { router }, words }: Seen): PodState[] {
  const states: PodState[] = router.pods.map((pod) => podStateIn(pod, words));
  const refused = router.deployment?.status?.conditions?.find(
    ({ type, status }) => type === "ReplicaFailure" && status === "True",
  );
  if (refused) states.push({ state: "Pending", restarts: 0, reason: "PodsRefused", message: refused.message ?? "" });
  return states;
}
