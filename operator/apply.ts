import { KIND } from "../src/api/names.ts";
import { revisionOf } from "../src/core/plan/revision.ts";
import type { Client } from "../src/kube/client.ts";
import { ApiError } from "../src/kube/errors.ts";
import type { Expectations } from "../src/kube/expectations.ts";
import { controllerOf, type KubeObject, keyOf } from "../src/kube/object.ts";
import { RESOURCES, type Resource } from "../src/kube/resource.ts";
import type { Caches } from "./caches.ts";
import { covers } from "./covers.ts";
import { isExpendable, isMadeOnce, OWNED } from "./kinds.ts";
import { MANAGER } from "./render/names.ts";

/** Hash of what was applied last: tells that a field is no longer wanted, which the object alone cannot show. */
const APPLIED = "llmpool.dev/applied";

/** What refers to other objects: a binding to its role, which the API server looks at, and pods to what they mount. */
const LAST: readonly string[] = [
  RESOURCES.roleBindings.kind,
  RESOURCES.statefulSets.kind,
  RESOURCES.deployments.kind,
  RESOURCES.jobs.kind,
];
const isLast = ({ kind }: KubeObject): boolean => LAST.includes(kind);

/** Why an object is not as it should be, in words. */
export interface Problem {
  reason: "ObjectTaken" | "ApplyFailed";
  message: string;
  /** Undefined: nothing to try again before something changes. */
  error?: unknown;
}

export interface ApplyDeps {
  client: Client;
  caches: Caches;
  expectations: Expectations;
}

/** The pool whose objects these are. */
export interface Owner {
  key: string;
  uid: string;
}

/**
 * Makes the objects of a pool what they should be: writes those that differ, deletes those that are left over, and touches nothing that another
 * owns. What is `kept` (`Kind name`) is neither written nor deleted. Writes together what does not refer to each other, with `token` on the side, which
 * pods mount; tries all, and returns what did not work. Rejects when the API server is away.
 */
export async function applyObjects(
  wanted: readonly KubeObject[],
  owner: Owner,
  deps: ApplyDeps,
  signal: AbortSignal,
  kept: ReadonlySet<string>,
  token: () => Promise<Problem | undefined>,
): Promise<Problem[]> {
  const problems: Problem[] = [];
  const write = (object: KubeObject) => attempt(object, () => applyOne(object, owner, deps, signal));
  const steps = [
    () => [token(), ...wanted.filter((object) => !isLast(object)).map(write)],
    () => wanted.filter(isLast).map(write),
  ];
  for (const step of steps) {
    const done = await Promise.allSettled(step());
    for (const one of done) {
      if (one.status === "rejected") throw one.reason;
      if (one.value) problems.push(one.value);
    }
  }
  const names = new Set([...wanted.map(nameOf), ...kept]);
  for (const object of deps.caches.owned(owner.key)) {
    if (names.has(nameOf(object)) || !isExpendable(object) || !isOwned(object, owner)) continue;
    if (object.metadata.deletionTimestamp !== undefined) continue;
    const problem = await attempt(object, () => remove(object, owner, deps, signal));
    if (problem) problems.push(problem);
  }
  return problems;
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
  { client, caches, expectations }: ApplyDeps,
  signal: AbortSignal,
): Promise<Problem | undefined> {
  const cache = caches.of(object.kind);
  const wanted = stamped(object);
  // What lacks our label is not in the cache, and may be there all the same.
  const stored = cache.get(keyOf(object)) ?? (await client.find(resourceOf(object), object.metadata, signal));
  if (stored) {
    if (!isOwned(stored, owner)) return taken(stored, owner);
    if (stored.metadata.deletionTimestamp !== undefined) return undefined;
    if (isMadeOnce(object) || covers(stored, wanted)) return undefined;
  }
  const answer = await client.apply(wanted, { fieldManager: MANAGER, force: true, signal });
  expectations.wrote(owner.key, cache, answer);
  return undefined;
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
function taken(stored: KubeObject, owner: Owner): Problem | undefined {
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

function stamped(object: KubeObject): KubeObject {
  const { metadata } = object;
  return {
    ...object,
    metadata: { ...metadata, annotations: { ...metadata.annotations, [APPLIED]: revisionOf(object) } },
  };
}

const nameOf = ({ kind, metadata: { name } }: KubeObject): string => `${kind} ${name}`;

function resourceOf({ kind }: KubeObject): Resource {
  const resource = [...OWNED, RESOURCES.podMonitors].find((r) => r.kind === kind);
  if (!resource) throw new TypeError(`pools have no ${kind}`);
  return resource;
}
