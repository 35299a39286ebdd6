import { Bag } from "../lib/bag.ts";
import type { Clock } from "../lib/clock.ts";
import { LLMPoolError } from "../lib/errors.ts";
import { isEarlier } from "./fair-share.ts";
import { Flows } from "./flows.ts";
import { IndexedHeap } from "./indexed-heap.ts";
import { NextPlaces } from "./next-places.ts";
import { Entry, type FlowLine, type Line, type QueueItem, type SessionLine, type Ticket } from "./queue-entry.ts";
import { tooLate } from "./queue-estimate.ts";
import type { Speed } from "./speed.ts";

export type { DeadlineCode, QueueItem, Slot, Ticket } from "./queue-entry.ts";

export interface QueueLimits {
  /** Requests that run at once: `sessionsPerInstance`. Infinity where somebody else gives the slots. */
  slots: number;
  /** Requests that wait: `queuePerInstance`. */
  waiting: number;
}

/**
 * Who competes as one: an episode; and everything that a tenant runs outside of episodes. A session is no flow of its own, or leaving the
 * episode out would earn an agent as many shares as it has sessions. Visible ASCII, as a header takes it.
 */
export function flowOf(tenant: string, episodeId: string | undefined): string {
  return `${encodeURIComponent(tenant)}/${episodeId ?? ""}`;
}

/**
 * The waiting line of one instance. Each flow is first in, first out, but a turn whose session still runs lets the next one pass;
 * `pickFair` chooses among the heads. A request is `waiting`, then `running` until its slot is released, or leaves the line before that.
 * While paused (the instance is down) nothing starts and the line goes on waiting. A start costs O(slots + log of the flows).
 */
export class InstanceQueue {
  readonly #name: string;
  readonly #clock: Clock;
  readonly #speed: Speed;
  readonly #onChange: () => void;
  #limits: QueueLimits;
  readonly #flows = new Flows();
  readonly #sessions = new Map<string, SessionLine>();
  /** All who wait. */
  readonly #deadlines = new IndexedHeap<Entry>((a, b) => a.deadline < b.deadline);
  readonly #running = new Bag<Entry>();
  readonly #nextPlaces = new NextPlaces();
  #arrivals = 0;
  #paused = false;
  #pausedUntil = 0;
  #closed = false;
  #expiryAt = Number.POSITIVE_INFINITY;
  #cancelExpiry: () => void = () => {};
  readonly #owner: Line = {
    leave: (entry, reason) => this.#leave(entry, reason),
    release: (entry) => this.#release(entry),
    position: (entry) => this.#position(entry),
    move: (entry, deadline) => this.#move(entry, deadline),
  };

  /** `name` is the instance's id, for messages. `onChange`: told after whatever changes how many wait or run. */
  constructor(name: string, deps: { clock: Clock; speed: Speed; onChange?: () => void }, limits: QueueLimits) {
    this.#name = name;
    this.#clock = deps.clock;
    this.#speed = deps.speed;
    this.#onChange = deps.onChange ?? (() => {});
    this.#limits = limits;
  }

  get waiting(): number {
    return this.#deadlines.size;
  }
  get running(): number {
    return this.#running.size;
  }
  /** Nobody waits, runs or holds a session. */
  get idle(): boolean {
    return this.running === 0 && this.waiting === 0 && this.#sessions.size === 0;
  }
  get paused(): boolean {
    return this.#paused;
  }

  /**
   * Throws `queue_full` when there is no place, and the item's own `deadlineCode` when even its first token would come too late by
   * measured speed. When the line is full, a flow with fewer waiting requests takes the last place of the one with most.
   */
  enqueue(item: QueueItem): Ticket {
    if (this.#closed) throw gone(this.#name);
    const now = this.#clock.now();
    const isFree = item.session === undefined || !this.#sessions.has(item.session);
    const atOnce = isFree && (item.slotless === true || this.#hasSlot());
    if (!atOnce) item.signal?.().throwIfAborted();
    const late = this.#tooLate(item, now, atOnce || this.#paused ? 0 : this.#aheadOf(item, now));
    if (late) throw late;
    if (!atOnce && this.waiting >= this.#limits.waiting) this.#makeRoom(item, now);

    const flow = item.slotless === true ? NO_FLOW : this.#flows.of(item.flow);
    const entry = new Entry(item, flow, this.#session(item.session), now, this.#arrivals++, this.#owner);
    if (atOnce) this.#start(entry, now);
    else this.#enter(entry);
    this.#onChange();
    return entry;
  }

  /** Requests that run or wait keep what they have; only new ones meet a lower limit. */
  resize(limits: QueueLimits): void {
    this.#limits = limits;
    this.#dispatch();
  }

  /** `until`: when those who wait go on at the latest, here or elsewhere; on the clock's scale, in milliseconds. */
  pause(until = 0): void {
    this.#paused = true;
    this.#pausedUntil = until;
  }

  resume(): void {
    this.#paused = false;
    this.#dispatch();
  }

  /** Sends everyone who waits for a slot away with `reason`: the instance will not be back soon enough. */
  evictAll(reason: unknown): void {
    for (const entry of this.#flows.waiting()) this.#leave(entry, reason);
  }

  /** Refuses whatever comes or waits; what runs may end. */
  close(): void {
    this.#closed = true;
    this.evictAll(gone(this.#name));
    this.#cancelExpiry();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  #leave(entry: Entry, reason: unknown): void {
    if (entry.state !== "waiting") return;
    this.#takeOut(entry);
    this.#follow(entry.session);
    this.#forget(entry);
    entry.reject(reason);
    this.#dispatch();
    this.#onChange();
  }

  #release(entry: Entry): void {
    if (entry.state !== "running") return;
    entry.state = "done";
    const { flow, session, item } = entry;
    if (item.slotless !== true) {
      this.#running.delete(entry);
      this.#flows.ended(flow);
      this.#speed.observeService(this.#clock.now() - entry.startedAt);
    }
    if (session) session.busy = false;
    this.#follow(session);
    this.#forget(entry);
    this.#dispatch();
    this.#onChange();
  }

  #position(entry: Entry): number {
    if (entry.state !== "waiting") return 0;
    const index = entry.flow.waiting.indexOf(entry);
    return 1 + this.#flows.countBefore(entry.flow, index, entry.deadline);
  }

  #move(entry: Entry, deadline: number): void {
    entry.deadline = deadline;
    if (entry.state !== "waiting") return;
    this.#deadlines.remove(entry);
    this.#deadlines.add(entry);
    this.#flows.changed(entry.flow);
    this.#expireAt(deadline);
  }

  #hasSlot(): boolean {
    return !this.#paused && this.running < this.#limits.slots;
  }

  #dispatch(): void {
    while (this.waiting > 0 && this.#hasSlot()) {
      const pick = this.#flows.pick(this.#limits.slots);
      if (!pick) return;
      const now = this.#clock.now();
      const late = this.#tooLate(pick, now, 0);
      this.#takeOut(pick);
      if (!late) {
        this.#start(pick, now);
        continue;
      }
      this.#follow(pick.session);
      this.#forget(pick);
      pick.reject(late);
    }
  }

  #start(entry: Entry, now: number): void {
    const { flow, session, item } = entry;
    if (item.slotless !== true) {
      this.#running.add(entry);
      this.#flows.started(flow);
    }
    if (session) session.busy = true;
    entry.start(now);
  }

  #enter(entry: Entry): void {
    const { flow, session, item } = entry;
    if (item.slotless !== true) insert(flow.waiting, entry);
    if (session) insert(session.waiting, entry);
    this.#deadlines.add(entry);
    entry.wait();
    if (session) this.#follow(session);
    else this.#flows.makeReady(entry);
    this.#expireAt(entry.deadline);
  }

  #takeOut(entry: Entry): void {
    const { flow, session } = entry;
    remove(flow.waiting, entry);
    this.#deadlines.remove(entry);
    this.#flows.unready(entry);
    if (session) remove(session.waiting, entry);
    if (session?.next === entry) session.next = undefined;
    entry.state = "done";
  }

  /** The first turn of a session that is free could start; all others of that session could not. */
  #follow(session: SessionLine | undefined): void {
    if (!session) return;
    const first = session.busy ? undefined : session.waiting[0];
    if (first === session.next) return;
    if (session.next) this.#flows.unready(session.next);
    session.next = undefined;
    if (!first) return;
    if (first.item.slotless === true) {
      this.#takeOut(first);
      this.#start(first, this.#clock.now());
    } else {
      session.next = first;
      this.#flows.makeReady(first);
    }
  }

  #forget({ item, session }: Entry): void {
    this.#flows.forget(item.flow);
    if (item.session === undefined || !session || session.busy || session.waiting.length > 0) return;
    this.#sessions.delete(item.session);
  }

  /** Takes the newest place of the flow that has most, if that has more than `asking` would; else the line is full. */
  #makeRoom(asking: QueueItem, now: number): void {
    const full = new LLMPoolError(
      "queue_full",
      `instance ${this.#name} has ${this.waiting} requests waiting, as many as it takes`,
      { retryAfterSeconds: this.#retryAfter(now) },
    );
    if (asking.slotless === true) throw full;
    const mine = (this.#flows.get(asking.flow)?.waiting.length ?? 0) + 1;
    const last = this.#flows.longest(mine)?.waiting.at(-1);
    if (!last) throw full;
    this.#leave(last, full);
  }

  #retryAfter(now: number): number {
    if (this.#paused) return Math.max(1, Math.ceil((this.#pausedUntil - now) / 1000));
    const { serviceMs } = this.#speed;
    const ends = this.#running.list().map((entry) => entry.startedAt + serviceMs);
    return this.#nextPlaces.tell(now, ends, serviceMs, Math.max(1, this.waiting));
  }

  #tooLate(item: Entry | QueueItem, now: number, ahead: number): LLMPoolError | undefined {
    const waitMs = (ahead * this.#speed.serviceMs) / this.#limits.slots;
    return tooLate(this.#name, item, {
      leftMs: item.deadline - now,
      ahead,
      waitMs,
      prefillMs: this.#speed.prefillMs(item.prefillTokens),
    });
  }

  /** Requests that would start before `item`, if it joined. Not counted where even the whole line would leave time enough. */
  #aheadOf(item: QueueItem, now: number): number {
    const { serviceMs } = this.#speed;
    const longest = (this.waiting * serviceMs) / this.#limits.slots + this.#speed.prefillMs(item.prefillTokens);
    if (serviceMs === 0 || longest <= item.deadline - now) return 0;
    const flow = this.#flows.get(item.flow);
    return this.#flows.countBefore(flow, flow?.waiting.length ?? 0, item.deadline);
  }

  /** One timer for the whole line, at its nearest deadline. */
  #expireAt(deadline: number): void {
    if (deadline >= this.#expiryAt) return;
    this.#cancelExpiry();
    this.#expiryAt = deadline;
    this.#cancelExpiry = this.#clock.after(deadline - this.#clock.now(), () => this.#expire());
  }

  #expire(): void {
    this.#expiryAt = Number.POSITIVE_INFINITY;
    const now = this.#clock.now();
    for (;;) {
      const first = this.#deadlines.first;
      if (!first) return;
      if (first.deadline > now) {
        this.#expireAt(first.deadline);
        return;
      }
      this.#leave(first, this.#tooLate(first, now, 0));
    }
  }

  #session(key: string | undefined): SessionLine | undefined {
    if (key === undefined) return undefined;
    const session = this.#sessions.get(key) ?? { busy: false, waiting: [], next: undefined };
    this.#sessions.set(key, session);
    return session;
  }
}

/** Of what competes for no slot. */
const NO_FLOW: FlowLine = { running: 0, turns: 0, waiting: [], ready: undefined };

/** Behind everyone who is older. */
function insert(list: Entry[], entry: Entry): void {
  let at = list.length;
  while (at > 0 && isEarlier(entry, list[at - 1] ?? entry)) at--;
  list.splice(at, 0, entry);
}

function remove(list: Entry[], entry: Entry): void {
  const at = list.indexOf(entry);
  if (at >= 0) list.splice(at, 1);
}

function gone(name: string): LLMPoolError {
  return new LLMPoolError("instance_unavailable", `instance ${name} takes no more requests`, { retryAfterSeconds: 1 });
}
