/** What a Bag holds: it keeps the place here, for itself. */
export interface Bagged {
  /** -1: in no bag. */
  place: number;
}

/**
 * A set without order for things that come and go with every request. Unlike a Set it forgets at once: when V8 makes a Set's table anew,
 * the old table points to the next and holds what was in it; once one has grown old, all that follow live until the next full collection.
 */
export class Bag<T extends Bagged> {
  readonly #all: T[] = [];

  get size(): number {
    return this.#all.length;
  }

  /** `item` is in no bag. */
  add(item: T): void {
    item.place = this.#all.length;
    this.#all.push(item);
  }

  /** Nothing happens when it is not there. */
  delete(item: T): void {
    const { place } = item;
    if (place < 0) return;
    item.place = -1;
    const last = this.#all.pop();
    if (last === undefined || last === item) return;
    this.#all[place] = last;
    last.place = place;
  }

  /** A copy: items may go while one looks at them. */
  list(): T[] {
    return [...this.#all];
  }
}
