import type { Clock } from "../../src/lib/clock.ts";
import { LLMPoolError } from "../../src/lib/errors.ts";
import type { SavedSessions } from "./saved-sessions.ts";
import type { Sequence } from "./sequence.ts";

/** The right to use one sequence until `release`. */
export interface Lease {
  readonly sequence: Sequence;
  /** @param broken the engine failed on this sequence: nothing in it can be trusted. Idempotent. */
  release(broken?: boolean): Promise<void>;
}

/** One sequence of the engine. `free`: empty; `idle`: holds its session's cache; `busy`: leased. */
interface Slot {
  readonly sequence: Sequence;
  state: "free" | "idle" | "busy";
  session?: string | undefined;
  /** The session was deleted while its turn ran: the cache goes when the turn ends. */
  doomed: boolean;
  lastUsed: number;
  cancelExpiry?: (() => void) | undefined;
}

interface Waiter {
  session: string | undefined;
  grant: (slot: Slot, evicted: string | undefined) => void;
}

/**
 * Which session's cache is in which sequence. A session finds its own again; a new one takes a free sequence, else the one that idles
 * longest, whose cache is saved to a file first. When all are busy, requests wait in the order of their coming, turns of one session one
 * after another.
 */
export class Sessions {
  readonly #slots: Slot[];
  readonly #saved: SavedSessions;
  readonly #clock: Clock;
  readonly #ttlMs: number;
  readonly #onRelease: (() => void)[] = [];
  #waiters: Waiter[] = [];
  #closed = false;

  constructor(sequences: readonly Sequence[], saved: SavedSessions, clock: Clock, ttlMs: number) {
    this.#slots = sequences.map((sequence) => ({ sequence, state: "free", doomed: false, lastUsed: 0 }));
    this.#saved = saved;
    this.#clock = clock;
    this.#ttlMs = ttlMs;
  }

  /** A sequence with the session's cache in it, as far as there is one; an empty one without a session. */
  async acquire(session: string | undefined, signal: AbortSignal): Promise<Lease> {
    const { slot, evicted } = await this.#wait(session, signal);
    const lease = this.#lease(slot);
    try {
      if (evicted !== undefined) {
        await this.#saved.save(evicted, slot.sequence);
        await slot.sequence.cut(0);
      }
      if (session !== undefined && slot.sequence.length === 0) await this.#saved.restore(session, slot.sequence);
      signal.throwIfAborted();
      return lease;
    } catch (error) {
      await lease.release(!signal.aborted);
      throw error;
    }
  }

  /** The session's state as a file's bytes; waits for its turn to end. Undefined when there is none. */
  async export(session: string): Promise<ReadableStream<Uint8Array> | undefined> {
    if (!this.#slotOf(session)) return this.#saved.read(session);
    const lease = await this.acquire(session, new AbortController().signal);
    try {
      return lease.sequence.length === 0 ? undefined : await this.#saved.stream(lease.sequence);
    } finally {
      await lease.release();
    }
  }

  /** Replaces the session's cache. Throws `invalid_request` for bytes that do not fit; then the old cache stays. */
  async import(session: string, data: ReadableStream<Uint8Array>): Promise<void> {
    await this.#saved.receive(session, data);
    await this.#forget(session);
  }

  /** Frees memory and file; a turn that runs keeps its sequence until it ends. True when there was something. */
  async delete(session: string): Promise<boolean> {
    const [inMemory, onDisk] = [await this.#forget(session), await this.#saved.delete(session)];
    return inMemory || onDisk;
  }

  /** Sequences that hold a session, and how many tokens are in all. */
  stats(): { sessions: number; tokens: number; free: number; busy: number } {
    const count = (state: Slot["state"]) => this.#slots.filter((slot) => slot.state === state).length;
    return {
      sessions: this.#slots.filter((slot) => slot.session !== undefined && !slot.doomed).length,
      tokens: this.#slots.reduce((sum, slot) => sum + slot.sequence.length, 0),
      free: count("free"),
      busy: count("busy"),
    };
  }

  /** Lets nobody in any more and resolves when nobody is in. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const slot of this.#slots) slot.cancelExpiry?.();
    while (this.#slots.some((slot) => slot.state === "busy"))
      await new Promise<void>((resolve) => this.#onRelease.push(resolve));
    await this.#saved.close();
  }

  #wait(session: string | undefined, signal: AbortSignal): Promise<{ slot: Slot; evicted: string | undefined }> {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(new LLMPoolError("instance_unavailable", "the instance is shutting down"));
      if (signal.aborted) return reject(signal.reason);
      const leave = () => {
        signal.removeEventListener("abort", onAbort);
        this.#waiters = this.#waiters.filter((w) => w !== waiter);
      };
      const onAbort = () => {
        leave();
        reject(signal.reason);
      };
      const waiter: Waiter = {
        session,
        grant: (slot, evicted) => {
          leave();
          resolve({ slot, evicted });
        },
      };
      signal.addEventListener("abort", onAbort, { once: true });
      this.#waiters.push(waiter);
      this.#serve();
    });
  }

  /** Gives slots to those who wait, in their order. Who waits for a session's own slot does not hold up others. */
  #serve(): void {
    for (const { session, grant } of this.#waiters) {
      const slot = this.#slotFor(session);
      if (!slot) continue;
      const evicted = slot.session !== session ? slot.session : undefined;
      slot.cancelExpiry?.();
      slot.state = "busy";
      slot.session = session;
      grant(slot, evicted);
    }
  }

  #slotFor(session: string | undefined): Slot | undefined {
    const own = session === undefined ? undefined : this.#slotOf(session);
    if (own) return own.state === "idle" ? own : undefined;
    const free = this.#slots.find((slot) => slot.state === "free");
    if (free) return free;
    const idle = this.#slots.filter((slot) => slot.state === "idle");
    return idle.sort((a, b) => a.lastUsed - b.lastUsed)[0];
  }

  #slotOf = (session: string): Slot | undefined => this.#slots.find((slot) => slot.session === session);

  #lease(slot: Slot): Lease {
    let released = false;
    return {
      sequence: slot.sequence,
      release: async (broken = false) => {
        if (released) return;
        released = true;
        if (broken) await slot.sequence.reset();
        if (slot.session === undefined || slot.doomed || slot.sequence.length === 0) await this.#empty(slot);
        else this.#idle(slot);
        this.#changed();
      },
    };
  }

  #changed(): void {
    for (const done of this.#onRelease.splice(0)) done();
    this.#serve();
  }

  #idle(slot: Slot): void {
    slot.state = "idle";
    slot.lastUsed = this.#clock.now();
    const { session } = slot;
    slot.cancelExpiry = this.#clock.after(this.#ttlMs, () => {
      if (slot.state === "idle" && slot.session === session) void this.#emptyIdle(slot);
    });
  }

  async #emptyIdle(slot: Slot): Promise<void> {
    slot.cancelExpiry?.();
    slot.state = "busy"; // nobody takes it while it is emptied
    await this.#empty(slot);
    this.#changed();
  }

  async #empty(slot: Slot): Promise<void> {
    slot.session = undefined;
    await slot.sequence.cut(0).catch(() => slot.sequence.reset());
    slot.doomed = false;
    slot.state = "free";
  }

  async #forget(session: string): Promise<boolean> {
    const slot = this.#slotOf(session);
    if (!slot || slot.doomed) return false;
    if (slot.state === "busy") slot.doomed = true;
    else await this.#emptyIdle(slot);
    return true;
  }
}
