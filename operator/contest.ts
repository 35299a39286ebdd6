/** So often in a row, within a minute, an object is put right at once; then it is somebody who does not give in. */
const AT_ONCE = 5;
const MINUTE_MS = 60_000;
/** How long to wait between two writes of a contested object, in milliseconds. */
const PAUSE_MS = 10_000;

/**
 * Notices that somebody else, such as a second controller, undoes what the operator writes, again and again. Writing against it as fast as one can
 * helps nobody. `id` is an object's, `hash` what was wanted of it, `now` on the clock.
 */
export class Contest {
  readonly #written = new Map<string, { hash: string; at: number[]; on: boolean }>();

  /** The object was put right. */
  wrote(id: string, hash: string, now: number): void {
    const known = this.#written.get(id);
    const before = known?.hash === hash ? known.at.filter((at) => now - at < MINUTE_MS) : [];
    const at = [...before, now];
    // The pauses make writes so few that their number alone would end it.
    this.#written.set(id, { hash, at, on: this.isOn(id, hash, now) || at.length > AT_ONCE });
  }

  /** Whether it is contested now, whatever it looks like at this instant: until a minute has passed without a write. */
  isOn(id: string, hash: string, now: number): boolean {
    const known = this.#written.get(id);
    return known?.hash === hash && known.on && now - (known.at.at(-1) ?? 0) < MINUTE_MS;
  }

  /** Whether it may be put right now. */
  mayWrite(id: string, hash: string, now: number): boolean {
    const last = this.#written.get(id)?.at.at(-1) ?? Number.NEGATIVE_INFINITY;
    return !this.isOn(id, hash, now) || now - last >= PAUSE_MS;
  }

  /** Those ids whose pool is gone. */
  forget(prefix: string): void {
    for (const id of this.#written.keys()) if (id.startsWith(prefix)) this.#written.delete(id);
  }
}
