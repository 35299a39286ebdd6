import { randomUUID } from "node:crypto";
import type { KubeObject, ObjectMeta } from "../../src/kube/object.ts";

/** A stored object with whatever it carries. */
export type Stored = KubeObject & {
  metadata: Required<Pick<ObjectMeta, "uid" | "resourceVersion">> & ObjectMeta;
} & Record<string, unknown>;

export interface Change {
  version: number;
  collection: string;
  before: Stored | undefined;
  after: Stored | undefined;
}

export interface Selector {
  namespace?: string | undefined;
  labels?: string | null;
  fields?: string | null;
}

/** A failed call as the API server words it. */
export class Refusal extends Error {
  readonly code: number;
  readonly reason: string;

  constructor(code: number, reason: string, message: string) {
    super(message);
    this.code = code;
    this.reason = reason;
  }
}

/** The state behind the fake API server: objects by collection (`apps/v1/statefulsets`), one version counter, and all that ever changed. */
export class FakeKubeStore {
  readonly #collections = new Map<string, Map<string, Stored>>();
  readonly changes: Change[] = [];
  readonly onChange = new Set<(change: Change) => void>();
  version = 100;
  /** Versions up to this one are compacted: a watch from before is refused. */
  compacted = 0;

  list(collection: string, selector: Selector = {}): Stored[] {
    return [...this.#of(collection).entries()]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([, object]) => object)
      .filter((object) => matches(object, selector));
  }

  find(collection: string, key: string): Stored | undefined {
    return this.#of(collection).get(key);
  }

  get(collection: string, key: string): Stored {
    const object = this.find(collection, key);
    if (!object) throw new Refusal(404, "NotFound", `${collection} "${key}" not found`);
    return object;
  }

  create(collection: string, given: KubeObject): Stored {
    const key = keyOf(given);
    if (this.find(collection, key)) throw new Refusal(409, "AlreadyExists", `${collection} "${key}" already exists`);
    const metadata = {
      ...given.metadata,
      uid: randomUUID(),
      resourceVersion: "",
      creationTimestamp: new Date().toISOString(),
    };
    return this.#put(collection, { ...given, metadata });
  }

  /** PUT: refused unless a given resourceVersion is the stored one. */
  replace(collection: string, given: KubeObject): Stored {
    const before = this.get(collection, keyOf(given));
    checkVersion(before, given.metadata.resourceVersion);
    const { uid, creationTimestamp = "" } = before.metadata;
    return this.#put(collection, {
      ...given,
      metadata: { ...given.metadata, uid, creationTimestamp, resourceVersion: "" },
    });
  }

  /** Merge patch, and what an apply does to an object that exists; nothing is stored when nothing changes. */
  merge(collection: string, key: string, patch: object): Stored {
    const before = this.get(collection, key);
    checkVersion(before, (patch as Partial<KubeObject>).metadata?.resourceVersion);
    const after = mergePatch(before, patch) as Stored;
    after.metadata.resourceVersion = before.metadata.resourceVersion;
    return JSON.stringify(sorted(after)) === JSON.stringify(sorted(before)) ? before : this.#put(collection, after);
  }

  delete(collection: string, key: string, preconditions: { uid?: string; resourceVersion?: string } = {}): Stored {
    const before = this.get(collection, key);
    if (preconditions.uid !== undefined && preconditions.uid !== before.metadata.uid)
      throw new Refusal(409, "Conflict", "Precondition failed: UID in precondition differs");
    checkVersion(before, preconditions.resourceVersion);
    if ((before.metadata.finalizers ?? []).length > 0) {
      if (before.metadata.deletionTimestamp) return before;
      return this.#put(collection, {
        ...before,
        metadata: { ...before.metadata, deletionTimestamp: new Date().toISOString() },
      });
    }
    this.#of(collection).delete(key);
    // The last state of a deleted object carries the version of its deletion.
    const last = { ...before, metadata: { ...before.metadata, resourceVersion: String(++this.version) } };
    this.#changed({ version: this.version, collection, before: last, after: undefined });
    return last;
  }

  #put(collection: string, object: Stored): Stored {
    const before = this.find(collection, keyOf(object));
    object.metadata.resourceVersion = String(++this.version);
    this.#of(collection).set(keyOf(object), object);
    this.#changed({ version: this.version, collection, before, after: object });
    return object;
  }

  #changed(change: Change): void {
    this.changes.push(change);
    for (const listener of this.onChange) listener(change);
  }

  #of(collection: string): Map<string, Stored> {
    const known = this.#collections.get(collection) ?? new Map<string, Stored>();
    this.#collections.set(collection, known);
    return known;
  }
}

/** The event that a watcher with this selector sees of a change: moving in is ADDED, moving out DELETED. */
export function eventOf({ before, after }: Change, selector: Selector): { type: string; object: Stored } | undefined {
  const was = before !== undefined && matches(before, selector);
  const is = after !== undefined && matches(after, selector);
  if (is && after) return { type: was ? "MODIFIED" : "ADDED", object: after };
  if (was && before) return { type: "DELETED", object: after ? { ...before, metadata: after.metadata } : before };
  return undefined;
}

function matches({ metadata }: Stored, { namespace, labels, fields }: Selector): boolean {
  const pairs = (text: string | null | undefined) =>
    (text ?? "").split(",").flatMap((pair) => (pair === "" ? [] : [pair.split("=", 2)]));
  return (
    (namespace === undefined || metadata.namespace === namespace) &&
    pairs(labels).every(([name = "", value]) => metadata.labels?.[name] === value) &&
    pairs(fields).every(([name, value]) => (name === "metadata.name" ? metadata.name : metadata.namespace) === value)
  );
}

function checkVersion(stored: Stored, wanted: string | undefined): void {
  if (wanted === undefined || wanted === "" || wanted === stored.metadata.resourceVersion) return;
  throw new Refusal(409, "Conflict", "the object has been modified; please apply your changes to the latest version");
}

function keyOf({ metadata: { namespace, name } }: KubeObject): string {
  return namespace === undefined ? name : `${namespace}/${name}`;
}

function mergePatch(target: unknown, patch: unknown): unknown {
  if (typeof patch !== "object" || patch === null || Array.isArray(patch)) return patch;
  const result: Record<string, unknown> =
    typeof target === "object" && target !== null && !Array.isArray(target) ? { ...target } : {};
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete result[name];
    else result[name] = mergePatch(result[name], value);
  }
  return result;
}

function sorted(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([name, inner]) => [name, sorted(inner)]));
}
