import { messageOf } from "../lib/errors.ts";
import type { Logger } from "../lib/logger.ts";
import { type IndexFunction, ObjectCache } from "./cache.ts";
import { type KubeObject, keyOf } from "./object.ts";
import { Reflector, type ReflectorOptions } from "./reflector.ts";

export interface InformerOptions<T extends KubeObject, I extends string> extends ReflectorOptions {
  /** Ways to look objects up: `{ pool: (pod) => [pod.metadata.labels?.pool ?? ""] }`. */
  indexes?: Record<I, IndexFunction<T>>;
  /** What to keep of an object. Without its managed fields, by default: nothing reads them and they are half of it. */
  keep?: (object: T) => T;
}

/** Which keys an object concerns: its own, its owner's. */
export type KeysOf<T> = (object: T) => Iterable<string>;

/**
 * A live copy of a collection, as raw JSON. Handlers learn which keys changed and nothing else: what is true is in the cache when they come to
 * look. What it hands out is shared: never change it.
 */
export class Informer<T extends KubeObject, I extends string = never> implements AsyncDisposable {
  readonly #cache: ObjectCache<T, I>;
  readonly #reflector: Reflector<T>;
  readonly #log: Logger;
  readonly #handlers = new Set<{ keysOf: KeysOf<T>; add: (key: string) => void }>();
  readonly #firstList = Promise.withResolvers<void>();
  #synced = false;

  constructor(options: InformerOptions<T, I>) {
    const { resource, metrics, log, indexes, keep } = options;
    this.#log = log;
    this.#cache = new ObjectCache<T, I>(indexes ?? ({} as Record<I, IndexFunction<T>>));
    this.#reflector = new Reflector<T>(options, {
      keep: keep ?? withoutManagedFields,
      replaced: (objects) => this.#replaced(objects),
      changed: (object) => this.#changed(object),
      removed: (object) => this.#removed(keyOf(object)),
    });
    metrics?.informer(resource.plural, () => ({ objects: this.#cache.size, synced: this.#synced }));
  }

  start(): void {
    this.#reflector.start();
  }

  /** The first list is in the cache. Nothing may be concluded from an absent object before. */
  get synced(): boolean {
    return this.#synced;
  }

  /** Resolves when synced; rejects with the signal's reason. Waits for as long as the API server is away. */
  whenSynced(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason);
      const onAbort = () => reject(signal.reason);
      signal.addEventListener("abort", onAbort, { once: true });
      void this.#firstList.promise.then(() => {
        signal.removeEventListener("abort", onAbort);
        resolve();
      });
    });
  }

  /** Version of the collection that the cache has come to. */
  get version(): string | undefined {
    return this.#reflector.version;
  }

  /** When the newest list in the cache was asked for, on the clock. */
  get listedAt(): number | undefined {
    return this.#reflector.listedAt;
  }

  /** Lists anew what is being watched. */
  relist(): void {
    this.#reflector.relist();
  }

  get size(): number {
    return this.#cache.size;
  }

  /** @param key as `keyOf` makes it */
  get(key: string): T | undefined {
    return this.#cache.get(key);
  }

  list(): T[] {
    return this.#cache.list();
  }

  by(index: I, value: string): T[] {
    return this.#cache.by(index, value);
  }

  /**
   * Calls `add` with each key that an object concerns when it appears, changes or goes, and now with those of all that are there. An object that
   * was replaced by another of its name counts as gone and appeared. Returns how to stop it.
   */
  onChange(keysOf: KeysOf<T>, add: (key: string) => void): () => void {
    const handler = { keysOf, add };
    this.#handlers.add(handler);
    for (const object of this.#cache.list()) this.#tell(handler, [object]);
    return () => this.#handlers.delete(handler);
  }

  async close(): Promise<void> {
    await this.#reflector.close();
    this.#handlers.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #replaced(objects: T[]): void {
    const there = new Set(objects.map(keyOf));
    for (const key of this.#cache.keys()) if (!there.has(key)) this.#removed(key);
    for (const object of objects) this.#changed(object);
    this.#synced = true;
    this.#firstList.resolve();
  }

  #changed(object: T): void {
    const known = this.#cache.get(keyOf(object));
    const { uid, resourceVersion } = object.metadata;
    if (known && known.metadata.uid === uid && known.metadata.resourceVersion === resourceVersion) return;
    if (known && known.metadata.uid !== uid) this.#removed(keyOf(object));
    const before = this.#cache.set(object);
    // Both: a changed label or owner concerns the old one too.
    const concerned = before ? [before, object] : [object];
    for (const handler of this.#handlers) this.#tell(handler, concerned);
  }

  #removed(key: string): void {
    const before = this.#cache.delete(key);
    if (before) for (const handler of this.#handlers) this.#tell(handler, [before]);
  }

  /** A handler that throws loses one notice, and nobody else does. */
  #tell({ keysOf, add }: { keysOf: KeysOf<T>; add: (key: string) => void }, concerned: T[]): void {
    try {
      for (const key of new Set(concerned.flatMap((object) => [...keysOf(object)]))) add(key);
    } catch (error) {
      this.#log.error("a handler of changes failed", { keys: concerned.map(keyOf), error: messageOf(error) });
    }
  }
}

function withoutManagedFields<T extends KubeObject>(object: T): T {
  if (object.metadata.managedFields === undefined) return object;
  const { managedFields: _, ...metadata } = object.metadata;
  return { ...object, metadata };
}
