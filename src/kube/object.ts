/** What every object of the API has, as it travels: JSON, instants as RFC 3339 text. */
export interface KubeObject {
  apiVersion: string;
  kind: string;
  metadata: ObjectMeta;
}

/** `uid`, `resourceVersion` and the timestamps are the server's: always there in what it answers, never in what is applied. */
export interface ObjectMeta {
  name: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  generation?: number;
  creationTimestamp?: string;
  /** Set once someone asked for deletion; the object stays until its finalizers are gone. */
  deletionTimestamp?: string;
  finalizers?: string[];
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ownerReferences?: OwnerReference[];
  managedFields?: object[];
}

export interface OwnerReference {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
  blockOwnerDeletion?: boolean;
}

export interface List<T extends KubeObject> {
  metadata: { resourceVersion?: string; continue?: string; remainingItemCount?: number };
  items: T[];
}

/**
 * A model class of the client library as its JSON: `Date` is text on the wire, and names that clash with a word of the language carry no
 * underscore there. Types only, so that nothing of the library is loaded for them.
 */
export type Wire<T> = T extends Date
  ? string
  : T extends readonly (infer E)[]
    ? Wire<E>[]
    : T extends object
      ? { [K in keyof T as K extends `_${infer Name}` ? Name : K]: Wire<T[K]> }
      : T;

/** A whole object of one of the library's model classes: `ObjectOf<V1Pod>`. */
export type ObjectOf<T> = KubeObject & Omit<Wire<T>, "apiVersion" | "kind" | "metadata">;

/** `namespace/name`, or the name alone of what has no namespace: what caches and queues are keyed by. */
export function keyOf({ metadata: { namespace, name } }: KubeObject): string {
  return namespace ? `${namespace}/${name}` : name;
}

/** The reverse of `keyOf`. */
export function parseKey(key: string): { namespace?: string; name: string } {
  const slash = key.indexOf("/");
  return slash < 0 ? { name: key } : { namespace: key.slice(0, slash), name: key.slice(slash + 1) };
}

/** The owner that manages the object, of which there is at most one. */
export function controllerOf(object: KubeObject): OwnerReference | undefined {
  return object.metadata.ownerReferences?.find((owner) => owner.controller === true);
}

/**
 * Whether version `seen` of a collection includes version `wanted` of an object in it. Versions of one kind are growing decimal numbers
 * (comparable by promise since Kubernetes 1.35, in fact since ever); anything else is only ever equal.
 */
export function includesVersion(seen: string, wanted: string): boolean {
  if (!/^\d+$/.test(seen) || !/^\d+$/.test(wanted)) return seen === wanted;
  return seen.length === wanted.length ? seen >= wanted : seen.length > wanted.length;
}

/** An instant as `MicroTime`, which Leases and Events want: the server refuses three digits there. */
export function microTime(wallMs: number): string {
  return new Date(wallMs).toISOString().replace("Z", "000Z");
}
