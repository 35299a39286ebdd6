import { type KubeObject, keyOf } from "./object.ts";

/** From an object to the values it is found by; none leaves it out of the index. */
export type IndexFunction<T> = (object: T) => Iterable<string>;

/** Objects by key and by whatever else they are looked up by. What it hands out is shared: never change it. */
export class ObjectCache<T extends KubeObject, I extends string = never> {
  readonly #objects = new Map<string, T>();
  readonly #indexes: { name: I; of: IndexFunction<T>; keys: Map<string, Set<string>> }[];

  constructor(indexes: Record<I, IndexFunction<T>>) {
    const names = Object.keys(indexes) as I[];
    this.#indexes = names.map((name) => ({ name, of: indexes[name], keys: new Map() }));
  }

  get size(): number {
    return this.#objects.size;
  }

  get(key: string): T | undefined {
    return this.#objects.get(key);
  }

  keys(): string[] {
    return [...this.#objects.keys()];
  }

  list(): T[] {
    return [...this.#objects.values()];
  }

  /** All objects that `index` gave `value` for, in no order. */
  by(index: I, value: string): T[] {
    const keys = this.#indexes.find(({ name }) => name === index)?.keys.get(value) ?? [];
    return [...keys].flatMap((key) => this.#objects.get(key) ?? []);
  }

  /** Returns what was there before. */
  set(object: T): T | undefined {
    const key = keyOf(object);
    const before = this.delete(key);
    this.#objects.set(key, object);
    for (const { of, keys } of this.#indexes) {
      for (const value of of(object)) {
        const found = keys.get(value);
        if (found) found.add(key);
        else keys.set(value, new Set([key]));
      }
    }
    return before;
  }

  /** Returns what was there. */
  delete(key: string): T | undefined {
    const before = this.#objects.get(key);
    if (before === undefined) return undefined;
    this.#objects.delete(key);
    for (const { of, keys } of this.#indexes) {
      for (const value of of(before)) {
        const found = keys.get(value);
        found?.delete(key);
        if (found?.size === 0) keys.delete(value);
      }
    }
    return before;
  }
}
