import type { Usage } from "../../api/backend.ts";
import type { Hold } from "./replies.ts";

/** Settlements that are told again: no more than the store remembers of a router. */
export const SETTLED_KEPT = 1_000;

export interface Held {
  id: string;
  r: Hold;
}

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

  /** But for those that others were free to settle: they must never come back. */
  get holds(): Held[] {
    return [...this.#holds].flatMap(([id, r]) => (this.#lost.has(id) ? [] : [{ id, r }]));
  }

  /** What another server than the one that was told may have open again, or may have forgotten: settled, confirmed or not. */
  get settlements(): (Held & { usage: Usage | null })[] {
    const told = [...this.#unsettled].flatMap(([id, usage]) => {
      const hold = this.#lost.has(id) ? undefined : this.#holds.get(id);
      return hold ? [{ id, r: hold, usage }] : [];
    });
    return [...[...this.#settled].map(([id, { hold, usage }]) => ({ id, r: hold, usage })), ...told];
  }

  /** What the store has of this router; everything else is given up. */
  confirmed(ids: readonly string[]): void {
    const kept = new Set(ids);
    for (const id of this.#holds.keys()) if (!kept.has(id)) this.#lost.add(id);
  }

  isHeld(requestId: string): boolean {
    return this.#holds.has(requestId);
  }

  isLost(requestId: string): boolean {
    return this.#lost.has(requestId);
  }
}
