/** Lets at most `places` holders in at once, in the order they asked. Loading is bound by CPU and disk: more at once only slows the first. */
export class LoadGate {
  #free: number;
  #waiting: (() => void)[] = [];

  constructor(places: number) {
    this.#free = Math.max(1, places);
  }

  /** Calls `enter` when there is a place, perhaps at once. The returned function gives the place back, or stops waiting; calling it again does nothing. */
  ask(enter: () => void): () => void {
    let state: "waiting" | "inside" | "out" = "waiting";
    const go = () => {
      state = "inside";
      enter();
    };
    const leave = () => {
      if (state === "waiting") this.#waiting = this.#waiting.filter((other) => other !== go);
      const had = state === "inside";
      state = "out";
      if (had) this.#pass();
    };
    if (this.#free > 0) {
      this.#free -= 1;
      go();
    } else this.#waiting.push(go);
    return leave;
  }

  #pass(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free += 1;
  }
}
