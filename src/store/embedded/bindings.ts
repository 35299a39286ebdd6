import type { AdmitRequest, Binding } from "../../core/store.ts";
import type { Clock } from "../../lib/clock.ts";
import type { Commits } from "./commits.ts";
import type { Journal } from "./journal.ts";
import { type BindingRecord, newRow } from "./records.ts";

/** Sessions that one store remembers. */
export const MOST_BINDINGS = 100_000;
/** How far behind the tables may be with the last use of a session, in milliseconds: a turn of a known session writes nothing. */
const USE_STEP_MS = 60_000;
const NOTHING_NEW = { durable: false, undo: () => {} };
/** How exactly the order of use is kept, in milliseconds. */
const ORDER_MS = 1_000;
/** Least time between two looks for sessions that are over, in milliseconds. */
const SWEEP_MS = 1_000;

export interface BindingsDeps {
  clock: Clock;
  journal: Journal;
  commits: Commits;
  /** A session that is not used for so long is forgotten. */
  ttlMs: number;
  nextRow: number;
  /** Sessions that are remembered: above it the one that was used least recently is forgotten early. */
  most: number;
}

/** Which session lives where, least recently used first. */
export class Bindings {
  readonly #deps: BindingsDeps;
  readonly #byKey = new Map<string, BindingRecord>();
  #nextRow: number;
  #sweeping = false;
  #cancelSweep: () => void = () => {};

  constructor(deps: BindingsDeps) {
    this.#deps = deps;
    this.#nextRow = deps.nextRow;
  }

  get size(): number {
    return this.#byKey.size;
  }

  find(tenant: string, key: string): BindingRecord | undefined {
    const record = this.#byKey.get(key);
    return record?.value.tenant === tenant && !this.#isOver(record) ? record : undefined;
  }

  all(): BindingRecord[] {
    return [...this.#byKey.values()].filter((record) => !this.#isOver(record));
  }

  /** Where a session is to live: where it was asked for, unless it was bound elsewhere since the router looked (`boundTo`). */
  homeOf({ tenant, key, instance, boundTo }: NonNullable<AdmitRequest["session"]>): string {
    const known = this.find(tenant, key)?.value.instance;
    return known === undefined || known === boundTo ? instance : known;
  }

  /**
   * Binds or moves a session, or just notes its use. `durable`: there is something to wait for; `undo` puts it back to what it was.
   */
  bind(session: Omit<Binding, "lastUsedAt">, instance: string): { durable: boolean; undo: () => void } {
    const { clock, journal } = this.#deps;
    const { tenant, key, id, role, episodeId } = session;
    const lastUsedAt = clock.wall();
    const known = this.#byKey.get(key);
    if (known && known.value.instance === instance && known.value.episodeId === episodeId) {
      this.#used(known, lastUsedAt);
      return NOTHING_NEW;
    }
    const value: Binding = {
      tenant,
      key,
      id,
      role,
      instance,
      ...(episodeId !== undefined && { episodeId }),
      lastUsedAt,
    };
    if (!known) {
      const record: BindingRecord = { ...newRow(this.#nextRow++), value, usedAt: clock.now(), storedUse: 0 };
      if (this.#byKey.size >= this.#deps.most) this.#dropFirst();
      this.restore(record);
      journal.bindings.mark(record);
      return { durable: true, undo: () => this.#drop(record) };
    }
    const before = known.value;
    known.value = value;
    this.#toEnd(known);
    journal.bindings.mark(known);
    return {
      durable: true,
      undo: () => {
        known.value = before;
      },
    };
  }

  /** Its order and instant are kept by the second: a session's turns come faster than anybody forgets it. */
  #used(record: BindingRecord, lastUsedAt: number): void {
    const { clock, journal, commits } = this.#deps;
    if (clock.now() - record.usedAt < ORDER_MS) return;
    record.value = { ...record.value, lastUsedAt };
    this.#toEnd(record);
    if (lastUsedAt - record.storedUse <= USE_STEP_MS) return;
    journal.bindings.mark(record);
    commits.later();
  }

  #toEnd(record: BindingRecord): void {
    const { key } = record.value;
    record.usedAt = this.#deps.clock.now();
    this.#byKey.delete(key);
    this.#byKey.set(key, record);
  }

  /** Takes in one that the tables had; the least recently used first. */
  restore(record: BindingRecord): void {
    this.#byKey.set(record.value.key, record);
    this.#sweepLater();
  }

  drop(tenant: string, key: string): boolean {
    const record = this.find(tenant, key);
    if (record) this.#drop(record);
    return record !== undefined;
  }

  close(): void {
    this.#cancelSweep();
  }

  #isOver({ usedAt }: BindingRecord): boolean {
    return this.#deps.clock.now() - usedAt >= this.#deps.ttlMs;
  }

  #drop(record: BindingRecord): void {
    if (this.#byKey.get(record.value.key) === record) this.#byKey.delete(record.value.key);
    record.gone = true;
    this.#deps.journal.bindings.mark(record);
    this.#deps.commits.soon();
  }

  #dropFirst(): void {
    const [first] = this.#byKey.values();
    if (first) this.#drop(first);
  }

  #sweepLater(): void {
    const [first] = this.#byKey.values();
    if (this.#sweeping || !first) return;
    this.#sweeping = true;
    const { clock, ttlMs } = this.#deps;
    this.#cancelSweep = clock.after(Math.max(SWEEP_MS, first.usedAt + ttlMs - clock.now()), () => this.#sweep());
  }

  #sweep(): void {
    this.#sweeping = false;
    for (const record of this.#byKey.values()) {
      if (!this.#isOver(record)) break;
      this.#drop(record);
    }
    this.#sweepLater();
  }
}
