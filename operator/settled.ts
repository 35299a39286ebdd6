import type { KubeObject } from "../src/kube/object.ts";

/**
 * Objects that an apply left as they were, although they do not show all that is wanted: the API server drops some values (an empty text, a false),
 * and leaves what others have put into a list. Without this memory each look would write them again. `id` is an object's, `hash` what was wanted of it.
 */
export class Settled {
  readonly #known = new Map<string, string>();

  /** `stored` was there before the apply, and is the answer to it. */
  add(id: string, stored: KubeObject, hash: string): void {
    this.#known.set(id, stateOf(stored, hash));
  }

  /** Whether an apply would change nothing, for it has changed nothing and the object is the same since. */
  has(id: string, stored: KubeObject, hash: string): boolean {
    return this.#known.get(id) === stateOf(stored, hash);
  }

  /** Those ids whose pool is gone. */
  forget(prefix: string): void {
    for (const id of this.#known.keys()) if (id.startsWith(prefix)) this.#known.delete(id);
  }
}

const stateOf = ({ metadata: { uid, resourceVersion } }: KubeObject, hash: string): string =>
  `${uid} ${resourceVersion} ${hash}`;
