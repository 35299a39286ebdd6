import type { Clock } from "../lib/clock.ts";
import { includesVersion, type KubeObject, keyOf } from "./object.ts";

/** How long a cache may take to show a write before it is listed anew, in milliseconds. */
const OVERDUE_MS = 30_000;

/** What an informer has come to. */
export interface Seen {
  readonly version: string | undefined;
  readonly listedAt: number | undefined;
  get(key: string): KubeObject | undefined;
  relist(): void;
}

interface Write {
  /** When the answer came. */
  at: number;
  /** The newest version written; undefined when only deletions are awaited. */
  version: string | undefined;
  /** Uids of deleted objects by key. */
  deleted: Map<string, string>;
  relistAskedAt: number;
}

/**
 * What a controller wrote and its caches have not shown yet. A decision from a cache older than one's own last write creates twice what one
 * creation was enough for, so it has to wait. Everything is kept per owner (the key that is reconciled): one owner never waits for another.
 */
export class Expectations {
  readonly #clock: Clock;
  readonly #owners = new Map<string, Map<Seen, Write>>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** `stored` is the server's answer to a write of an object that `cache` selects. */
  wrote(owner: string, cache: Seen, stored: KubeObject): void {
    const { resourceVersion } = stored.metadata;
    if (resourceVersion === undefined) throw new TypeError("a stored object has a resourceVersion");
    const write = this.#of(owner, cache);
    if (write.version === undefined || includesVersion(resourceVersion, write.version)) write.version = resourceVersion;
  }

  /** The server accepted the deletion of this object of `cache`. */
  deleted(owner: string, cache: Seen, object: KubeObject): void {
    const { uid } = object.metadata;
    if (uid !== undefined) this.#of(owner, cache).deleted.set(keyOf(object), uid);
  }

  /** Whether some cache is older than the owner's own last write. Asks a cache that stays behind to list anew. */
  behind(owner: string): boolean {
    const writes = this.#owners.get(owner);
    if (!writes) return false;
    const now = this.#clock.now();
    for (const [cache, write] of writes) {
      if (shows(cache, write)) writes.delete(cache);
      else if (now - Math.max(write.at, write.relistAskedAt) >= OVERDUE_MS) {
        write.relistAskedAt = now;
        cache.relist();
      }
    }
    if (writes.size === 0) this.#owners.delete(owner);
    return writes.size > 0;
  }

  /** A cache is closed, and will show nothing more. */
  abandon(cache: Seen): void {
    for (const writes of this.#owners.values()) writes.delete(cache);
  }

  /** The owner is gone. */
  forget(owner: string): void {
    this.#owners.delete(owner);
  }

  #of(owner: string, cache: Seen): Write {
    const writes = this.#owners.get(owner) ?? new Map<Seen, Write>();
    this.#owners.set(owner, writes);
    const write = writes.get(cache) ?? { at: 0, version: undefined, deleted: new Map(), relistAskedAt: 0 };
    writes.set(cache, write);
    write.at = this.#clock.now();
    return write;
  }
}

function shows(cache: Seen, { at, version, deleted }: Write): boolean {
  // Being watched from there on, or listed after the answer: either holds the write.
  if (cache.listedAt !== undefined && cache.listedAt > at) return true;
  if (version !== undefined && !(cache.version !== undefined && includesVersion(cache.version, version))) return false;
  for (const [key, uid] of deleted) {
    const metadata = cache.get(key)?.metadata;
    if (metadata?.uid === uid && metadata.deletionTimestamp === undefined) return false;
  }
  return true;
}
