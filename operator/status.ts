import type { LLMPool, LLMPoolStatus } from "../src/api/llmpool.ts";
import { DEFAULT_VARIANT } from "../src/api/names.ts";
import type { InstanceStatus } from "../src/api/status.ts";
import type { PoolPlan } from "../src/core/plan/types.ts";
import { RESOURCES, selectorOf } from "../src/kube/resource.ts";
import type { Problem } from "./apply.ts";
import type { Told } from "./ask.ts";
import { conditionsOf, type Judgement } from "./conditions.ts";
import type { Observed } from "./gather.ts";
import type { VariantFit } from "./gpu/fits.ts";
import { judgeModel } from "./judge-model.ts";
import { isRouterAsWanted, judgeRouter, routerTrouble } from "./judge-router.ts";
import { judgeSchedulable } from "./judge-schedulable.ts";
import type { Pod } from "./kinds.ts";
import { condition, DENIED, podState, reasonOf } from "./pod-state.ts";
import { namesOf, podLabels } from "./render/names.ts";
import { ROUTER_PORT } from "./render/router.ts";
import { isCurrent } from "./rollout.ts";
import { isReady, type Row, rowsOf } from "./rows.ts";
import { isNotable, rounded } from "./speed.ts";
import type { Words } from "./words.ts";

export interface StatusInput {
  pool: LLMPool;
  generation: number | undefined;
  plan: PoolPlan;
  observed: Observed;
  /** Kinds of what has been written since `observed`. */
  written: ReadonlySet<string>;
  /** What is there of before and about to go (`Kind name`). */
  awaited: ReadonlySet<string>;
  problems: readonly Problem[];
  /** Whether writes were refused for reasons that may pass, and are not told yet: something of the spec is still missing. */
  refused: boolean;
  /** What instances say of themselves, by id. */
  told: ReadonlyMap<string, Told>;
  /** What Events say of what stays behind. */
  words: Words;
  /** Of variants with cards and a model. */
  fits: readonly VariantFit[];
  before: LLMPoolStatus | undefined;
  /** RFC 3339 */
  now: string;
}

/** How long the scheduler may refuse a pod before somebody has to act, in milliseconds. */
export const STUCK_MS = 5_000;

/** The status of a pool, from what is there. Pure: the same input gives the same status. */
export function statusOf(input: StatusInput): LLMPoolStatus {
  const { pool, generation, plan, observed, before, now } = input;
  const rows = observed.variants.flatMap((variant) => rowsOf(variant, input.told, input.words));
  const own = rows.filter(({ instance }) => instance.variant === DEFAULT_VARIANT);
  const namespace = pool.metadata.namespace ?? "default";
  // An autoscaler takes pods for replicas: where a pod holds several instances it would scale down under load. Without a selector it refuses.
  const countable = !observed.variants.some(
    ({ rendered }) => rendered.packed && rendered.plan.name === DEFAULT_VARIANT,
  );
  return {
    ...(generation !== undefined && { observedGeneration: generation }),
    desiredInstances: own.length,
    instances: own.filter(({ pod }) => pod !== undefined).length,
    readyInstances: own.filter(isReady).length,
    ...(countable && { selector: selectorOf(podLabels(plan.pool, "instance", DEFAULT_VARIANT)) }),
    url: `http://${namesOf(plan.pool).router}.${namespace}.svc:${ROUTER_PORT}`,
    roles: plan.roles.map(({ name, instances }) => ({ name, instances })),
    instanceStatuses: rows.map((row) => rowStatus(row, before)),
    conditions: conditionsOf(judge(input, rows), before?.conditions, generation, now),
  };
}

function rowStatus({ instance, pod, seen, told }: Row, before: LLMPoolStatus | undefined): InstanceStatus {
  const { device, warmupSeconds, tokensPerSecond } = told ?? {};
  return {
    id: instance.id,
    variant: instance.variant,
    ...(pod && { pod: pod.metadata.name }),
    state: seen.state,
    ...(pod?.spec?.nodeName !== undefined && { node: pod.spec.nodeName }),
    ...(device !== undefined && { device }),
    ...(warmupSeconds !== undefined && { warmupSeconds: rounded(warmupSeconds) }),
    ...(tokensPerSecond !== undefined && { tokensPerSecond: speedOf(instance.id, tokensPerSecond, before) }),
    restarts: seen.restarts,
    ...(seen.message !== undefined && { message: seen.message }),
  };
}

/** What is written stays until it is notably wrong, so that an instance at work causes no writes. */
function speedOf(id: string, measured: number, before: LLMPoolStatus | undefined): number {
  const known = before?.instanceStatuses?.find((row) => row.id === id)?.tokensPerSecond;
  return known === undefined || isNotable(known, measured) ? rounded(measured) : known;
}

/** The status of a pool that cannot be planned: what was known stays, and Ready says why. */
export function invalidStatus(
  generation: number | undefined,
  message: string,
  before: LLMPoolStatus | undefined,
  now: string,
): LLMPoolStatus {
  const judgements: Judgement[] = [
    { type: "Ready", status: "False", reason: "Invalid", message },
    { type: "Progressing", status: "False", reason: "Invalid", message: "nothing is changed until the spec is valid" },
    { type: "Stalled", status: "True", reason: "Invalid", message },
  ];
  return {
    ...before,
    ...(generation !== undefined && { observedGeneration: generation }),
    conditions: conditionsOf(judgements, before?.conditions, generation, now),
  };
}

function judge(input: StatusInput, rows: readonly Row[]): Judgement[] {
  const instances = judgeInstances(rows);
  const router = judgeRouter(input);
  const ready = judgeReady(input, rows, instances, router);
  const model = judgeModel(input.observed, rows, input.words);
  const others = otherPods(input.observed);
  const stalled = judgeStalled(input, rows, ready, model);
  const moving = whatMoves(input, rows);
  const problem = problemIn(input);
  // What cannot be made is tried again, but nothing says that this will help.
  const settled = problem
    ? { reason: problem.reason, message: problem.message }
    : { reason: "Complete" as const, message: "everything is as the spec wants it" };
  return [
    ready,
    instances,
    router,
    model,
    judgeSchedulable(rows, others, input.fits, input.words),
    moving ? { type: "Progressing", status: "True", ...moving } : { type: "Progressing", status: "False", ...settled },
    ...(moving && !stalled ? [{ type: "Reconciling", status: "True", ...moving } as const] : []),
    ...(stalled ? [{ ...stalled, type: "Stalled", status: "True" } as const] : []),
  ];
}

/** What cannot be applied, most serious first. */
const problemIn = ({ problems }: StatusInput): Problem | undefined =>
  problems.find(({ reason }) => reason === "ObjectTaken") ?? problems[0];

/** Pods of a pool that are no instances: of its router, and of loaders that have not ended. */
const otherPods = ({ router, loads }: Observed): Pod[] => [
  ...router.pods,
  ...loads.filter(({ facts }) => !facts).flatMap(({ pods }) => pods),
];

function judgeReady(input: StatusInput, rows: readonly Row[], instances: Judgement, router: Judgement): Judgement {
  const type = "Ready";
  const problem = problemIn(input);
  if (problem) return { type, status: "False", reason: problem.reason, message: problem.message };
  const missing = [instances, router].find(({ status }) => status !== "True");
  if (missing) return { ...missing, type, status: "False" };
  const wasReady = input.before?.conditions?.some((one) => one.type === type && one.status === "True") ?? false;
  // A pool that serves goes on; a new one may lack its Service.
  if (input.refused && !wasReady) return { type, status: "False", reason: "Loading", message: REFUSED };
  const reason = rows.length > 0 ? "Ready" : "ScaledToZero";
  return { type, status: "True", reason, message: instances.message };
}

/** What waits for a person; undefined: nothing does. */
function judgeStalled(
  input: StatusInput,
  rows: readonly Row[],
  ready: Judgement,
  model: Judgement,
): Judgement | undefined {
  const pods = [...rows.flatMap(({ pod }) => pod ?? []), ...otherPods(input.observed)];
  const justRefused = pods.some((pod) => isJustRefused(pod, input.now));
  const isDenied = (reason = "") => DENIED.has(reason) && !(reason === "Unschedulable" && justRefused);
  // Also where others serve: a rollout stops at such an instance.
  const isStuck = ({ seen }: Row) => seen.state === "Failed" || isDenied(seen.reason);
  const taken = problemIn(input)?.reason === "ObjectTaken";
  if (ready.status !== "True" && (taken || isDenied(ready.reason) || rows.some(isStuck))) return ready;
  // The instances of before serve on, and those that are wanted cannot be made.
  if (model.status === "False" || isDenied(model.reason)) return model;
  const router = routerTrouble(input);
  if (router && (router.state === "Failed" || isDenied(router.reason)))
    return { type: "Stalled", status: "True", reason: reasonOf(router), message: `the router: ${router.message}` };
  // Nobody wants it any more, and nobody else can end it.
  const lost = input.observed.surplus.find((pod) => podState(pod).reason === "NodeLost");
  if (lost) {
    const message = `${lost.metadata.name}: ${podState(lost).message}`;
    return { type: "Stalled", status: "True", reason: "Failed", message };
  }
  return undefined;
}

/** Whether the scheduler has refused it a moment ago: the cards of the pod before it may be free in the next. */
function isJustRefused(pod: Pod, now: string): boolean {
  const scheduled = condition(pod, "PodScheduled");
  return scheduled?.status === "False" && Date.parse(now) - Date.parse(`${scheduled.lastTransitionTime}`) < STUCK_MS;
}

/** Whether time alone may make it wait for somebody. */
export function mayBeStuckSoon({ conditions = [] }: LLMPoolStatus): boolean {
  const of = (type: string) => conditions.find((one) => one.type === type);
  return of("Schedulable")?.reason === "Unschedulable" && of("Stalled") === undefined;
}

function judgeInstances(rows: readonly Row[]): Judgement {
  const type = "InstancesReady";
  const ready = rows.filter(isReady).length;
  const count = `${ready} of ${rows.length} instances ready`;
  if (rows.length === 0) return { type, status: "True", reason: "ScaledToZero", message: "no instances are wanted" };
  if (ready === rows.length) return { type, status: "True", reason: "Ready", message: count };
  const worst =
    rows.find(({ seen }) => seen.state === "Failed") ??
    rows.find(({ seen }) => seen.reason !== undefined && DENIED.has(seen.reason)) ??
    rows.find(({ seen }) => seen.state !== "Ready");
  const message = worst?.seen.message ? `${count}; ${worst.instance.id}: ${worst.seen.message}` : count;
  const reason = ready > 0 ? "Degraded" : reasonOf(worst?.seen);
  return { type, status: "False", reason, message };
}

/** Kinds whose change makes, replaces or ends pods. */
const WORKLOADS: readonly string[] = [
  RESOURCES.statefulSets.kind,
  RESOURCES.deployments.kind,
  RESOURCES.jobs.kind,
  RESOURCES.configMaps.kind,
];

const REFUSED = "the API server refuses some writes for now: they are tried again";

/** What is on its way, most telling first. */
function whatMoves(
  { observed, plan, written, awaited, refused, words }: StatusInput,
  rows: readonly Row[],
): { reason: "RollingOut" | "Loading"; message: string } | undefined {
  const stale = observed.variants.flatMap(({ rendered, pods }) =>
    pods.filter((p) => !isCurrent(p, rendered.podRevision)),
  );
  if (stale.length > 0) return { reason: "RollingOut", message: `${stale.length} pods are to be replaced` };
  const outdated = rows.filter((row) => row.outdated).length;
  if (outdated > 0) return { reason: "RollingOut", message: `${outdated} instances are to be replaced` };
  const leaving = [
    ...observed.surplus,
    ...rows.flatMap(({ pod }) => (pod?.metadata.deletionTimestamp !== undefined ? [pod] : [])),
  ];
  if (leaving.length > 0) return { reason: "RollingOut", message: `${leaving.length} pods end` };
  const starting = rows.filter((row) => !isReady(row)).length;
  if (starting > 0) return { reason: "Loading", message: `${starting} instances start` };
  if (!isRouterAsWanted({ observed, plan })) {
    const trouble = routerTrouble({ observed, plan, words });
    return { reason: "Loading", message: `the router starts${trouble ? `: ${trouble.message}` : ""}` };
  }
  if (refused) return { reason: "RollingOut", message: REFUSED };
  const [first] = awaited;
  if (first !== undefined) return { reason: "Loading", message: `${first} of before is still about to go` };
  // What is seen is how it was before.
  if (WORKLOADS.some((kind) => written.has(kind))) return { reason: "RollingOut", message: "a change is on its way" };
  return undefined;
}
