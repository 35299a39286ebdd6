/** A binary heap that values can also leave from the middle. Adding and removing take O(log n), looking at the first takes O(1). */
export class IndexedHeap<T> {
  readonly #isBefore: (a: T, b: T) => boolean;
  readonly #values: T[] = [];
  readonly #at = new Map<T, number>();

  /** `isBefore` must say the same of two values for as long as both are in; one that changes is removed at once, and added again. */
  constructor(isBefore: (a: T, b: T) => boolean) {
    this.#isBefore = isBefore;
  }

  get size(): number {
    return this.#values.length;
  }

  get first(): T | undefined {
    return this.#values[0];
  }

  has(value: T): boolean {
    return this.#at.has(value);
  }

  /** A value that is in already stays where it is. */
  add(value: T): void {
    if (!this.#at.has(value)) this.#rise(this.#values.length, value);
  }

  /** Compares the others only: `value` may have changed. */
  remove(value: T): void {
    const at = this.#at.get(value);
    if (at === undefined) return;
    this.#at.delete(value);
    const last = this.#values.pop() as T;
    if (last === value) return;
    const parent = this.#values[(at - 1) >> 1];
    if (at > 0 && this.#isBefore(last, parent as T)) this.#rise(at, last);
    else this.#sink(at, last);
  }

  #rise(from: number, value: T): void {
    let i = from;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      const above = this.#values[parent] as T;
      if (!this.#isBefore(value, above)) break;
      this.#put(i, above);
      i = parent;
    }
    this.#put(i, value);
  }

  #sink(from: number, value: T): void {
    const size = this.#values.length;
    let i = from;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= size) break;
      if (child + 1 < size && this.#isBefore(this.#values[child + 1] as T, this.#values[child] as T)) child++;
      const below = this.#values[child] as T;
      if (!this.#isBefore(below, value)) break;
      this.#put(i, below);
      i = child;
    }
    this.#put(i, value);
  }

  #put(i: number, value: T): void {
    this.#values[i] = value;
    this.#at.set(value, i);
  }
}
