import { isDeepStrictEqual } from "node:util";
import type { V1ConfigMap } from "@kubernetes/client-node";
import type { LLMPool, LLMPoolStatus } from "../src/api/llmpool.ts";
import { ANNOTATIONS, API_VERSION, KIND } from "../src/api/names.ts";
import type { PoolPlan } from "../src/core/plan/types.ts";
import { type Reconcile, UnfinishedError } from "../src/kube/controller.ts";
import { isStatus } from "../src/kube/errors.ts";
import type { EventRecorder } from "../src/kube/events.ts";
import { type KubeObject, type ObjectOf, parseKey } from "../src/kube/object.ts";
import { RESOURCES } from "../src/kube/resource.ts";
import { announce } from "./announce.ts";
import { type Applied, type ApplyDeps, applyObjects, isOwned, type Owner, type Problem } from "./apply.ts";
import type { Told } from "./ask.ts";
import { behind } from "./behind.ts";
import { Checked } from "./checked.ts";
import { Contest } from "./contest.ts";
import { failedOfBefore, failsInOldImage } from "./former-release.ts";
import { gather, keptRouterImage, type Observed } from "./gather.ts";
import type { Cards } from "./gpu/cards.ts";
import { type ClaimTemplate, fitsOf } from "./gpu/fits.ts";
import { hold } from "./hold.ts";
import { keepEntries } from "./keep-entries.ts";
import type { Pod } from "./kinds.ts";
import { spentAt } from "./model-state.ts";
import { Patience } from "./patience.ts";
import type { Prober } from "./prober.ts";
import { MANAGER, ownerOf } from "./render/names.ts";
import { renderPool } from "./render/render.ts";
import { routerRevision } from "./render/router.ts";
import type { RenderSettings } from "./render/settings.ts";
import { variantsOf } from "./render/variant.ts";
import { podsToReplace } from "./rollout.ts";
import { Settled } from "./settled.ts";
import { invalidStatus, mayBeStuckSoon, STUCK_MS, statusOf } from "./status.ts";
import { StatusPace } from "./status-pace.ts";
import { targetsOf } from "./targets.ts";
import { Tokens } from "./token.ts";
import { type EventWords, identified } from "./words.ts";

export interface ReconcileDeps extends Omit<ApplyDeps, "contest" | "settled"> {
  settings: Omit<RenderSettings, "podMonitors">;
  recorder: Pick<EventRecorder, "record">;
  prober: Pick<Prober, "follow" | "told" | "said" | "waitMs">;
  eventWords: Pick<EventWords, "about" | "forget">;
  cards: Pick<Cards, "nodes" | "slices">;
  makeToken: () => string;
}

/** How often to look whether a foreign object went, which no event tells, in milliseconds. */
const LOOK_AGAIN_MS = 5_000;
/** How soon to look whether the Secret of an earlier pool is gone, in milliseconds. */
const FOREIGN_TOKEN_MS = 1_000;
/** How soon to look at what came of own writes, in milliseconds. */
const WROTE_MS = 1_000;
/** How long a loader that ended without facts is left, in milliseconds, before another is made. */
const SPENT_MS = 30_000;

type StoredPool = KubeObject & { status?: LLMPoolStatus };

/** Brings one pool to its spec: gather, plan, render, apply, replace, status. */
export function makeReconciler(given: ReconcileDeps): Reconcile {
  const deps = { ...given, contest: new Contest(), settled: new Settled() };
  const checked = new Checked();
  const pace = new StatusPace();
  const tokens = new Tokens(deps);
  const patience = new Patience();
  return async (key, signal) => {
    const { caches, cards, expectations, clock } = deps;
    const stored = caches.pools.get(key) as StoredPool | undefined;
    if (!stored || stored.metadata.deletionTimestamp !== undefined) {
      // Owner references clean up.
      expectations.forget(key);
      checked.forget(key);
      pace.forget(key);
      tokens.forget(key);
      patience.forget(key);
      deps.contest.forget(`${key} `);
      deps.settled.forget(`${key} `);
      deps.prober.follow(key, []);
      deps.eventWords.forget(key);
      return {};
    }
    const { status: before, ...manifest } = stored;
    const checking = checked.of(key, manifest);
    const now = new Date(clock.wall()).toISOString().replace(/\.\d+Z$/, "Z");
    const { generation } = stored.metadata;
    if ("problems" in checking) {
      await writeStatus(deps, key, stored, invalidStatus(generation, checking.problems, before, now), signal);
      return {};
    }
    const { pool, plan } = checking;
    const { problems, written, unsure, awaited, observed, lookMs } = await bring(pool, plan, key, tokens, deps, signal);
    const lasting = patience.lasting(key, problems, clock.now());
    deps.prober.follow(key, targetsOf(observed.variants), toldIn(before, generation));
    const namespace = namespaceOf(key);
    const subjects = identified(behind(observed), ({ kind, name }) => caches.find(kind, namespace, name));
    const { words, againMs } = await deps.eventWords.about(key, namespace, subjects, signal);
    const fits = fitsOf(observed.variants, cards, await claimTemplates(observed, key, deps, signal));
    // Last: an answer may have come meanwhile.
    const told = deps.prober.told(key);
    const next = statusOf({
      pool,
      generation,
      plan,
      observed,
      written: new Set([...written, ...unsure]),
      awaited,
      problems: lasting,
      refused: lasting.length < problems.length,
      told,
      words,
      fits,
      before,
      now,
    });
    const waitMs = Math.max(pace.wait(key, before, next, clock.now()), deps.prober.waitMs(key));
    if (waitMs === 0 && (await writeStatus(deps, key, stored, next, signal)))
      pace.wrote(key, before, next, clock.now());
    const [failed, others] = [problems.filter(isFailure), problems.filter((problem) => !isFailure(problem))];
    const lookAgainMs = soonest(
      waitMs || undefined,
      others.length > 0 ? LOOK_AGAIN_MS : undefined,
      lookMs,
      againMs,
      // Its events come sooner, unless the server had all of it already.
      written.size > 0 ? WROTE_MS : undefined,
      mayBeStuckSoon(next) ? STUCK_MS : undefined,
      patience.tellsInMs(key, clock.now()),
    );
    if (failed.length > 0)
      throw new UnfinishedError(
        failed.map(({ error }) => error),
        failed.map(({ message }) => message).join("; "),
        // However many failures there were: one object that cannot be written keeps back no news of the others.
        lookAgainMs,
      );
    return { requeueAfterMs: lookAgainMs };
  };
}

/** What is to be tried again, later each time. Of all other problems nothing is known to change by a try. */
const isFailure = ({ error }: Problem): boolean => error !== undefined;

const namespaceOf = (key: string): string => parseKey(key).namespace ?? "default";

function soonest(...waits: (number | undefined)[]): number | undefined {
  const known = waits.filter((ms) => ms !== undefined);
  return known.length > 0 ? Math.min(...known) : undefined;
}

/**
 * What an operator before this one was told of instances that are ready: a new one asks all of them, and writes nothing until it knows better. What was
 * said of an earlier generation is of no known revision.
 */
function toldIn(status: LLMPoolStatus | undefined, generation: number | undefined): Map<string, Told> {
  const ready = (status?.instanceStatuses ?? []).filter(({ state }) => state === "Ready");
  return new Map(
    ready.map(({ id, restarts = 0, device, warmupSeconds, tokensPerSecond }) => [
      id,
      {
        state: "Ready",
        restarts,
        ...(status?.observedGeneration !== generation && { revision: "" }),
        ...(device !== undefined && { device }),
        ...(warmupSeconds !== undefined && { warmupSeconds }),
        ...(tokensPerSecond !== undefined && { tokensPerSecond }),
      },
    ]),
  );
}

/** Those that variants name and that are there. */
async function claimTemplates(
  { variants }: Observed,
  key: string,
  { client }: ReconcileDeps,
  signal: AbortSignal,
): Promise<Map<string, ClaimTemplate>> {
  const { namespace } = parseKey(key);
  const found = new Map<string, ClaimTemplate>();
  for (const { rendered } of variants) {
    const name = rendered.plan.gpu?.resourceClaimTemplateName;
    if (name === undefined || found.has(name)) continue;
    try {
      const template = await client.find<ClaimTemplate>(RESOURCES.resourceClaimTemplates, { namespace, name }, signal);
      if (template) found.set(name, template);
    } catch (error) {
      // Not ours to read: how many cards it asks for stays unknown.
      if (!isStatus(error, 403)) throw error;
    }
  }
  return found;
}

/** Everything that is written but the status. What it returns was seen before these writes, but for the pods that it deleted: they leave. */
async function bring(
  pool: LLMPool,
  plan: PoolPlan,
  key: string,
  tokens: Tokens,
  deps: ReconcileDeps & ApplyDeps,
  signal: AbortSignal,
): Promise<Applied & { observed: Observed; lookMs: number | undefined }> {
  const { caches, settings } = deps;
  const reference = ownerOf(pool);
  if (!reference) throw new TypeError(`pool ${key} came without a uid`);
  const owner: Owner = { key, uid: reference.uid };
  const variants = variantsOf(pool, plan);
  const observed = gather(pool, variants, owner, caches);
  const router = keptRouterImage(observed, routerRevision(pool, plan)) ?? settings.images.router;
  const podMonitors = caches.knows(RESOURCES.podMonitors);
  const facts = new Map(observed.loads.flatMap(({ load, facts }) => (facts ? [[load.factsName, facts]] : [])));
  const objects = renderPool(pool, plan, { ...settings, podMonitors, images: { ...settings.images, router }, facts });
  const stored = (name: string) => {
    const map = caches.of("ConfigMap").get(`${namespaceOf(key)}/${name}`);
    return map && isOwned(map, owner) ? (map as ObjectOf<V1ConfigMap>).data : undefined;
  };
  const due = new Map(observed.variants.map((variant) => [variant, dueOf(variant, key, deps)]));
  const entries = keepEntries(objects, pool.metadata.name, observed.variants, [...due.values()].flat(), stored);
  const { wanted, kept } = hold(entries, pool.metadata.name, observed);
  // A Job whose model is known has done its work; it stays for whoever wants to read its log.
  for (const { load, facts } of observed.loads) if (facts) kept.add(`Job ${load.jobName}`);
  const token = () => tokens.ensure(owner, reference, namespaceOf(key), signal);
  const applied = await applyObjects(wanted, owner, deps, signal, kept, token);
  const loadAgainMs = await removeSpentLoaders(observed, router, key, deps, signal);
  for (const [variant, pods] of due) await replace(variant, pods, pool, key, deps, signal);
  // Of the end of what is not in the caches no event tells.
  const awaitedMs = applied.awaited.size > 0 ? LOOK_AGAIN_MS : undefined;
  const tokenMs = applied.foreignToken ? FOREIGN_TOKEN_MS : undefined;
  return { ...applied, observed, lookMs: soonest(loadAgainMs, awaitedMs, tokenMs) };
}

/**
 * Loaders that ended and left no facts are made anew, after a while, and those that fail in another image than `image` at once. Returns how soon to
 * look again, in milliseconds.
 */
async function removeSpentLoaders(
  { loads }: Observed,
  image: string,
  key: string,
  { client, caches, expectations, clock }: ReconcileDeps,
  signal: AbortSignal,
): Promise<number | undefined> {
  let nextMs: number | undefined;
  for (const observed of loads) {
    const { job } = observed;
    const at = failsInOldImage(observed, image) ? Number.NEGATIVE_INFINITY : spentAt(observed);
    if (!job || at === undefined || job.metadata.deletionTimestamp !== undefined) continue;
    const waitMs = at + SPENT_MS - clock.wall();
    if (waitMs > 0) {
      nextMs = soonest(nextMs, waitMs);
      continue;
    }
    const { uid } = job.metadata;
    if (await client.delete(RESOURCES.jobs, job.metadata, { uid, propagation: "Background", signal }))
      expectations.deleted(key, caches.of("Job"), job);
  }
  return nextMs;
}

/** The pods whose turn it is, once the StatefulSet's controller would make them in the new image. */
function dueOf(variant: Observed["variants"][number], key: string, { prober }: ReconcileDeps): Pod[] {
  const { rendered, set, pods } = variant;
  const { podRevision: revision, pods: wanted, plan } = rendered;
  const current = set?.metadata.annotations?.[ANNOTATIONS.revision] === revision;
  if (!set || !current || (set.status?.observedGeneration ?? 0) < (set.metadata.generation ?? 1)) return [];
  const said = (pod: Pod) => prober.said(key, pod.metadata.uid ?? "");
  const packed = rendered.packed ? { packed: { instances: plan.instances, said } } : {};
  return [
    ...new Set([...podsToReplace({ pods, wanted, revision, ...packed }), ...failedOfBefore(pods, set, revision)]),
  ];
}

/** Deletes pods, and notes that they leave. */
async function replace(
  variant: Observed["variants"][number],
  due: readonly Pod[],
  pool: LLMPool,
  key: string,
  { client, caches, expectations, recorder, clock }: ReconcileDeps,
  signal: AbortSignal,
): Promise<void> {
  for (const pod of due) {
    const { uid } = pod.metadata;
    if (!(await client.delete(RESOURCES.pods, pod.metadata, { uid, signal }))) continue;
    expectations.deleted(key, caches.pods, pod);
    const deletionTimestamp = new Date(clock.wall()).toISOString();
    const leaving = { ...pod, metadata: { ...pod.metadata, deletionTimestamp } };
    variant.pods = variant.pods.map((other) => (other === pod ? leaving : other));
    recorder.record(pool as unknown as KubeObject, replacing(pod));
  }
}

const replacing = (pod: Pod) => ({
  type: "Normal" as const,
  reason: "ReplacingPod",
  action: "ReplacePod",
  note: `${pod.metadata.name} has an older revision: it drains and is made anew`,
  related: pod,
});

/** False when it was so already. */
async function writeStatus(
  { client, caches, expectations, recorder }: ReconcileDeps,
  key: string,
  stored: StoredPool,
  status: LLMPoolStatus,
  signal: AbortSignal,
): Promise<boolean> {
  if (isDeepStrictEqual(stored.status, status)) return false;
  const { name, namespace, resourceVersion } = stored.metadata;
  // With the version: of nothing but what was looked at. A uid is not checked where a status is written.
  const metadata = {
    name,
    ...(namespace !== undefined && { namespace }),
    ...(resourceVersion !== undefined && { resourceVersion }),
  };
  const object = { apiVersion: API_VERSION, kind: KIND, metadata, status };
  const answer = await client.apply(object, { fieldManager: MANAGER, force: true, subresource: "status", signal });
  expectations.wrote(key, caches.pools, answer);
  announce(recorder, stored, stored.status, status);
  return true;
}
