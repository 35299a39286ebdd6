/** A binary min-heap of instants: what is due next, in O(log n). Equal instants come out in no particular order. */
export class Heap<T> {
  readonly #at: number[] = [];
  readonly #values: T[] = [];

  get size(): number {
    return this.#at.length;
  }

  /** The earliest instant; Infinity when empty. */
  get nextAt(): number {
    return this.#at[0] ?? Number.POSITIVE_INFINITY;
  }

  push(at: number, value: T): void {
    let i = this.#at.length;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (this.#instant(parent) <= at) break;
      this.#move(parent, i);
      i = parent;
    }
    this.#at[i] = at;
    this.#values[i] = value;
  }

  /** Takes out the value of the earliest instant. */
  pop(): T | undefined {
    const first = this.#values[0];
    const at = this.#at.pop();
    const value = this.#values.pop();
    const size = this.#at.length;
    if (at === undefined || size === 0) return first;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= size) break;
      if (child + 1 < size && this.#instant(child + 1) < this.#instant(child)) child++;
      if (this.#instant(child) >= at) break;
      this.#move(child, i);
      i = child;
    }
    this.#at[i] = at;
    this.#values[i] = value as T;
    return first;
  }

  #instant(i: number): number {
    return this.#at[i] ?? Number.POSITIVE_INFINITY;
  }

  #move(from: number, to: number): void {
    this.#at[to] = this.#instant(from);
    this.#values[to] = this.#values[from] as T;
  }
}
