import { KIND } from "../src/api/names.ts";
import { revisionOf } from "../src/core/plan/revision.ts";
import type { Client } from "../src/kube/client.ts";
import { ApiError, isTemporary } from "../src/kube/errors.ts";
import type { Expectations } from "../src/kube/expectations.ts";
import { controllerOf, type KubeObject, keyOf } from "../src/kube/object.ts";
import { RESOURCES, type Resource } from "../src/kube/resource.ts";
import type { Clock } from "../src/lib/clock.ts";
import type { Caches } from "./caches.ts";
import type { Contest } from "./contest.ts";
import { covers } from "./covers.ts";
import { isExpendable, isMadeOnce, OWNED } from "./kinds.ts";
import { MANAGER } from "./render/names.ts";
import type { Settled } from "./settled.ts";

/** Hash of what was applied last: tells that a field is no longer wanted, which the object alone cannot show. */
const APPLIED = "llmpool.dev/applied";

/** What refers to other objects: a binding to its role, which the API server looks at, and pods to what they mount. */
const LAST: readonly string[] = [
  RESOURCES.roleBindings.kind,
  RESOURCES.statefulSets.kind,
  RESOURCES.deployments.kind,
  RESOURCES.jobs.kind,
];
/** What starts pods that mount the pool's token. */
const MOUNTS_TOKEN: readonly string[] = [RESOURCES.statefulSets.kind, RESOURCES.deployments.kind];
const isLast = ({ kind }: KubeObject): boolean => LAST.includes(kind);

/** Why an object is not as it should be, in words. */
export interface Problem {
  reason: "ObjectTaken" | "ApplyFailed" | "Contested";
  message: string;
  /** Undefined: nothing to try again before something changes. */
  error?: unknown;
}

export interface ApplyDeps {
  client: Client;
  clock: Clock;
  contest: Contest;
  settled: Settled;
  caches: Caches;
  expectations: Expectations;
}

/** What came of it. */
export interface Applied {
  problems: Problem[];
  /** Kinds of what was written or deleted: of these the caches may still show what was before. */
  written: Set<string>;
  /** Kinds of what the API server may have written, and refused to say so: it is written again. */
  unsure: Set<string>;
  /** What is there of before and is about to go (`Kind name`): until then it cannot be made. */
  awaited: Set<string>;
  /** The Secret with the token is another's or an earlier pool's: what starts pods has been left as it is. */
  foreignToken: boolean;
}

/** What became of the Secret that pods mount. */
export interface TokenOutcome {
  problem?: Problem;
  /** One of its name is there that is not this pool's. */
  foreign: boolean;
}

/** The pool whose objects these are. */
export interface Owner {
  key: string;
  uid: string;
}

/**
 * Makes the objects of a pool what they should be: writes those that differ, deletes those that are left over, and touches nothing that another
 * owns. What is `kept` (`Kind name`) is neither written nor deleted. Writes together what does not refer to each other, with `token` on the side, which
 * pods mount; tries all, and returns what was done and what did not work. Rejects when the API server is away.
 */
export async function applyObjects(
  wanted: readonly KubeObject[],
  owner: Owner,
  deps: ApplyDeps,
  signal: AbortSignal,
  kept: ReadonlySet<string>,
  token: () => Promise<TokenOutcome>,
): Promise<Applied> {
  const problems: Problem[] = [];
  const written = new Set<string>();
  const unsure = new Set<string>();
  const awaited = new Set<string>();
  const failed = new Set<string>();
  const write = (object: KubeObject) =>
    attempt(object, () => applyOne(object, owner, deps, { written, awaited }, signal));
  const ensured = token();
  // Its rejection is heard of below, and not before.
  ensured.catch(() => {});
  let foreignToken = false;
  for (const late of [false, true]) {
    if (late) {
      const { problem, foreign } = await ensured;
      if (problem) problems.push(problem);
      foreignToken = foreign;
    }
    const together = wanted
      .filter((object) => isLast(object) === late)
      // No pod starts with a token that is not this pool's.
      .filter(({ kind }) => !(foreignToken && MOUNTS_TOKEN.includes(kind)))
      // The API server would refuse it for want of its role, which hides the cause.
      .filter(({ kind, metadata }) => kind !== "RoleBinding" || !failed.has(`Role ${metadata.name}`));
    const done = await Promise.allSettled(together.map(write));
    for (const [at, one] of done.entries()) {
      if (one.status === "rejected") throw one.reason;
      if (!one.value) continue;
      problems.push(one.value);
      const object = together[at];
      if (!object) continue;
      failed.add(nameOf(object));
      if (isTemporary(one.value.error)) unsure.add(object.kind);
    }
  }
  const names = new Set([...wanted.map(nameOf), ...kept]);
  for (const object of deps.caches.owned(owner.key)) {
    if (names.has(nameOf(object)) || !isExpendable(object) || !isOwned(object, owner)) continue;
    if (object.metadata.deletionTimestamp !== undefined) continue;
    const problem = await attempt(object, () => remove(object, owner, deps, signal));
    if (problem) problems.push(problem);
    else written.add(object.kind);
  }
  return { problems, written, unsure, awaited, foreignToken };
}

/** Does something with one object. What the API server refuses is a problem of that object; rejects when the server is away. */
export async function attempt(
  object: KubeObject,
  act: () => Promise<Problem | undefined>,
): Promise<Problem | undefined> {
  try {
    return await act();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return { reason: "ApplyFailed", message: `${nameOf(object)}: ${error.message}`, error };
  }
}

async function applyOne(
  object: KubeObject,
  owner: Owner,
  { client, caches, expectations, contest, settled, clock }: ApplyDeps,
  { written, awaited }: Pick<Applied, "written" | "awaited">,
  signal: AbortSignal,
): Promise<Problem | undefined> {
  const cache = caches.of(object.kind);
  const hash = revisionOf(object);
  const wanted = stamped(object, hash);
  const id = `${owner.key} ${nameOf(object)}`;
  const ifContested = () => (contest.isOn(id, hash, clock.now()) ? contested(object) : undefined);
  // What lacks our label is not in the cache, and may be there all the same.
  const stored = cache.get(keyOf(object)) ?? (await client.find(resourceOf(object), object.metadata, signal));
  if (stored) {
    const isForeign = !isOwned(stored, owner) || stored.metadata.deletionTimestamp !== undefined;
    if (isForeign) {
      const problem = taken(stored, owner);
      if (!problem) awaited.add(nameOf(object));
      return problem;
    }
    const isCovered = isMadeOnce(object) || covers(stored, wanted) || settled.has(id, stored, hash);
    const isHeldBack = !contest.mayWrite(id, hash, clock.now());
    if (isCovered || isHeldBack) return ifContested();
  }
  // With the uid: never one that took its place unseen.
  const { uid } = stored?.metadata ?? {};
  const metadata = { ...wanted.metadata, ...(uid !== undefined && { uid }) };
  const answer = await client.apply({ ...wanted, metadata }, { fieldManager: MANAGER, force: true, signal });
  if (stored && answer.metadata.resourceVersion === stored.metadata.resourceVersion) {
    settled.add(id, answer, hash);
    return ifContested();
  }
  expectations.wrote(owner.key, cache, answer);
  contest.wrote(id, hash, clock.now());
  written.add(object.kind);
  return ifContested();
}

async function remove(
  object: KubeObject,
  owner: Owner,
  { client, caches, expectations }: ApplyDeps,
  signal: AbortSignal,
): Promise<undefined> {
  const { uid } = object.metadata;
  if (await client.delete(resourceOf(object), object.metadata, { uid, propagation: "Background", signal }))
    expectations.deleted(owner.key, caches.of(object.kind), object);
}

/** One of an earlier pool of this name, or on its way out, is only waited for: the garbage collector has it. */
export function taken(stored: KubeObject, owner: Owner): Problem | undefined {
  const { namespace, deletionTimestamp } = stored.metadata;
  const other = controllerOf(stored);
  const earlier = other?.kind === KIND && `${namespace}/${other.name}` === owner.key;
  if (earlier || deletionTimestamp !== undefined) return undefined;
  const whose = other ? `belongs to ${other.kind} ${other.name}` : "is nobody's we know";
  return {
    reason: "ObjectTaken",
    message: `${nameOf(stored)} is there already and ${whose}: rename or delete it, or give the pool another name`,
  };
}

export function isOwned(object: KubeObject, { uid }: Owner): boolean {
  return controllerOf(object)?.uid === uid;
}

const contested = (object: KubeObject): Problem => ({
  reason: "Contested",
  message: `${nameOf(object)}: somebody else undoes again and again what the operator writes; its managedFields say who`,
});

function stamped(object: KubeObject, hash: string): KubeObject {
  const { metadata } = object;
  return {
    ...object,
    metadata: { ...metadata, annotations: { ...metadata.annotations, [APPLIED]: hash } },
  };
}

const nameOf = ({ kind, metadata: { name } }: KubeObject): string => `${kind} ${name}`;

function resourceOf({ kind }: KubeObject): Resource {
  const resource = [...OWNED, RESOURCES.podMonitors].find((r) => r.kind === kind);
  if (!resource) throw new TypeError(`pools have no ${kind}`);
  return resource;
}
