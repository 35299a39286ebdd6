import type { Usage } from "../../api/backend.ts";
import type { Hold } from "./replies.ts";

/** Settlements that are told again: no more than the store remembers of a router. */
export const SETTLED_KEPT = 1_000;

/** What this router has open at the store, and what it settled lately: told again after a failover, and settled when the store is back. Memory only. */
export class Journal {
  /** Admitted, and not known to be settled. */
  readonly #holds = new Map<string, Hold>();
  /** Of those, what the store has given up while this router was away. */
  readonly #lost = new Set<string>();
  /** Settlements that the store has not confirmed. */
  readonly #unsettled = new Map<string, Usage | null>();

  /** The latest that the store has confirmed, which a copy that takes over may lack; the oldest first. */
  readonly #settled = new Map<string, { hold: Hold; usage: Usage | null }>();

  admitted(requestId: string, hold: Hold | undefined): void {
    this.#unsettled.delete(requestId);
    if (hold) this.#holds.set(requestId, hold);
  }

  /** Nobody knows whether it was admitted: it was not dispatched, so it gives back what it may have. */
  unsure(requestId: string): void {
    this.#unsettled.set(requestId, null);
  }

  /** The first settlement counts. */
  settling(requestId: string, usage: Usage | null): void {
    if (!this.#unsettled.has(requestId)) this.#unsettled.set(requestId, usage);
  }

  /** `byUs`: it was open until then. */
  settled(requestId: string, byUs: boolean): void {
    const usage = this.#unsettled.get(requestId) ?? null;
    const hold = this.#holds.get(requestId);
    if (byUs && hold) this.#settled.set(requestId, { hold, usage });
    if (this.#settled.size > SETTLED_KEPT) this.#settled.delete(this.#settled.keys().next().value ?? "");
    this.#unsettled.delete(requestId);
    this.#holds.delete(requestId);
    this.#lost.delete(requestId);
  }

  get unsettled(): [requestId: string, usage: Usage | null][] {
    return [...this.#unsettled];
  }

  /** But for those that others were free to settle: they must never come back. Of another server, what was settled may be open again, or forgotten. */
  holds(isOtherRun: boolean): { id: string; r: Hold }[] {
    const open = [...this.#holds].flatMap(([id, r]) => (this.#lost.has(id) ? [] : [{ id, r }]));
    return isOtherRun ? [...open, ...[...this.#settled].map(([id, { hold }]) => ({ id, r: hold }))] : open;
  }

  /** What the store has of this router; everything else is given up. What was settled and is among it is settled again, by the same count. */
  confirmed(ids: readonly string[]): void {
    const kept = new Set(ids);
    for (const [id, { hold, usage }] of this.#settled) {
      if (!kept.has(id)) continue;
      this.#settled.delete(id);
      this.#holds.set(id, hold);
      this.#unsettled.set(id, usage);
    }
    for (const id of this.#holds.keys()) if (!kept.has(id)) this.#lost.add(id);
  }

  isHeld(requestId: string): boolean {
    return this.#holds.has(requestId);
  }

  isLost(requestId: string): boolean {
    return this.#lost.has(requestId);
  }
}
