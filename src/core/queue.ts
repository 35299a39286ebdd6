import type { Clock } from "../lib/clock.ts";
import { LLMPoolError } from "../lib/errors.ts";
import { pickFair } from "./fair-share.ts";
import { Entry, type FlowLine, type Line, type QueueItem, type SessionLine, type Ticket } from "./queue-entry.ts";
import { countBefore, tooLate } from "./queue-estimate.ts";
import type { Speed } from "./speed.ts";

export type { DeadlineCode, QueueItem, Slot, Ticket } from "./queue-entry.ts";

export interface QueueLimits {
  /** Requests that run at once: `sessionsPerInstance`. */
  slots: number;
  /** Requests that wait: `queuePerInstance`. */
  waiting: number;
}

/**
 * Who competes as one: an episode; and everything that a tenant runs outside of episodes. A session is no flow of its own, or leaving the
 * episode out would earn an agent as many shares as it has sessions.
 */
export function flowOf(tenant: string, episodeId: string | undefined): string {
  return episodeId === undefined ? `tenant ${tenant}` : `episode ${tenant}\n${episodeId}`;
}

/**
 * The waiting line of one instance. Each flow is first in, first out, but a turn whose session still runs lets the next one pass;
 * `pickFair` chooses among the heads. A request is `waiting`, then `running` until its slot is released, or leaves the line before that.
 * While paused (the instance is down) nothing starts and the line goes on waiting. A pick looks at each waiting flow once.
 */
export class InstanceQueue {
  readonly #name: string;
  readonly #clock: Clock;
  readonly #speed: Speed;
  #limits: QueueLimits;
  readonly #flows = new Map<string, FlowLine>();
  readonly #sessions = new Map<string, SessionLine>();
  #waiting = 0;
  #running = 0;
  #arrivals = 0;
  /** Turns at which a flow that comes, or comes back, begins: nobody saves up turns while away. */
  #floor = 0;
  #paused = false;
  #closed = false;
  #expiryAt = Number.POSITIVE_INFINITY;
  #cancelExpiry: () => void = () => {};
  readonly #owner: Line = {
    leave: (entry, reason) => this.#leave(entry, reason),
    release: (entry) => this.#release(entry),
    position: (entry) => this.#position(entry),
    moved: (entry) => this.#moved(entry),
  };

  /** `name` is the instance's id, for messages. */
  constructor(name: string, deps: { clock: Clock; speed: Speed }, limits: QueueLimits) {
    this.#name = name;
    this.#clock = deps.clock;
    this.#speed = deps.speed;
    this.#limits = limits;
  }

  get waiting(): number {
    return this.#waiting;
  }
  get running(): number {
    return this.#running;
  }
  get paused(): boolean {
    return this.#paused;
  }

  /**
   * Throws `queue_full` when there is no place, and the item's own `deadlineCode` when even its first token would come too late by
   * measured speed. When the line is full, a flow with fewer waiting requests takes the last place of the one with most.
   */
  enqueue(item: QueueItem): Ticket {
    item.signal?.throwIfAborted();
    if (this.#closed) throw gone(this.#name);
    const now = this.#clock.now();
    const session = item.session === undefined ? undefined : this.#sessions.get(item.session);
    const atOnce = !this.#paused && this.#running < this.#limits.slots && session === undefined;
    const ahead = atOnce || this.#paused ? 0 : this.#aheadOf(item, now);
    const late = this.#tooLate(item, now, ahead);
    if (late) throw late;
    if (!atOnce && this.#waiting >= this.#limits.waiting) this.#makeRoom(item.flow);

    const entry = new Entry(
      item,
      this.#flow(item.flow),
      this.#session(item.session),
      now,
      this.#arrivals++,
      this.#owner,
    );
    if (atOnce) this.#start(entry, now);
    else this.#enter(entry);
    return entry;
  }

  /** Requests that run or wait keep what they have; only new ones meet a lower limit. */
  resize(limits: QueueLimits): void {
    this.#limits = limits;
    this.#dispatch();
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#dispatch();
  }

  /** Sends everyone who waits away with `reason`: the instance will not be back soon enough. */
  evictAll(reason: unknown): void {
    for (const flow of [...this.#flows.values()]) for (const entry of [...flow.waiting]) this.#leave(entry, reason);
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
    this.#forget(entry);
    entry.reject(reason);
    this.#dispatch();
  }

  #release(entry: Entry): void {
    if (entry.state !== "running") return;
    entry.state = "done";
    this.#running--;
    entry.flow.running--;
    if (entry.session) entry.session.busy = false;
    this.#speed.observeService(this.#clock.now() - entry.startedAt);
    this.#forget(entry);
    this.#dispatch();
  }

  #position(entry: Entry): number {
    if (entry.state !== "waiting") return 0;
    const index = entry.flow.waiting.indexOf(entry);
    return 1 + countBefore(this.#flows.values(), this.#floor, entry.flow, index, entry.deadline);
  }

  #moved(entry: Entry): void {
    if (entry.state === "waiting") this.#expireAt(entry.deadline);
  }

  #dispatch(): void {
    while (!this.#paused && this.#waiting > 0 && this.#running < this.#limits.slots) {
      const heads: Entry[] = [];
      for (const flow of this.#flows.values()) {
        const head = flow.waiting.find(isRunnable);
        if (!head) continue;
        flow.turns = Math.max(flow.turns, this.#floor);
        heads.push(head);
      }
      const picked = pickFair(heads, this.#limits.slots / this.#flows.size);
      if (!picked) return;
      const { pick } = picked;
      const now = this.#clock.now();
      const late = this.#tooLate(pick, now, 0);
      this.#takeOut(pick);
      if (late) {
        this.#forget(pick);
        pick.reject(late);
      } else {
        this.#floor = Math.max(this.#floor, picked.floor);
        this.#start(pick, now);
      }
    }
  }

  #start(entry: Entry, now: number): void {
    this.#running++;
    entry.flow.running++;
    entry.flow.turns = Math.max(entry.flow.turns, this.#floor) + 1;
    if (entry.session) entry.session.busy = true;
    entry.start(now);
  }

  #enter(entry: Entry): void {
    entry.flow.waiting.push(entry);
    entry.session?.waiting.push(entry);
    this.#waiting++;
    entry.wait();
    this.#expireAt(entry.deadline);
  }

  #takeOut(entry: Entry): void {
    remove(entry.flow.waiting, entry);
    if (entry.session) remove(entry.session.waiting, entry);
    this.#waiting--;
    entry.state = "done";
  }

  #forget({ item, flow, session }: Entry): void {
    if (flow.running === 0 && flow.waiting.length === 0) this.#flows.delete(item.flow);
    if (item.session === undefined || !session || session.busy || session.waiting.length > 0) return;
    this.#sessions.delete(item.session);
  }

  /** Takes the newest place of the flow that has most, if that has more than `asking` would; else the line is full. */
  #makeRoom(asking: string): void {
    const mine = (this.#flows.get(asking)?.waiting.length ?? 0) + 1;
    let longest: FlowLine | undefined;
    for (const flow of this.#flows.values()) {
      if (flow.waiting.length > (longest?.waiting.length ?? mine)) longest = flow;
    }
    const last = longest?.waiting.at(-1);
    const full = new LLMPoolError(
      "queue_full",
      `instance ${this.#name} has ${this.#waiting} requests waiting, as many as it takes`,
      { retryAfterSeconds: Math.max(1, this.#speed.serviceMs / this.#limits.slots / 1000) },
    );
    if (!last) throw full;
    this.#leave(last, full);
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
    const longest = (this.#waiting * serviceMs) / this.#limits.slots + this.#speed.prefillMs(item.prefillTokens);
    if (serviceMs === 0 || longest <= item.deadline - now) return 0;
    const flow = this.#flows.get(item.flow);
    return countBefore(this.#flows.values(), this.#floor, flow, flow?.waiting.length ?? 0, item.deadline);
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
    let next = Number.POSITIVE_INFINITY;
    for (const flow of [...this.#flows.values()]) {
      for (const entry of [...flow.waiting]) {
        if (entry.deadline > now) next = Math.min(next, entry.deadline);
        else this.#leave(entry, this.#tooLate(entry, now, 0));
      }
    }
    this.#expireAt(next);
  }

  #flow(key: string): FlowLine {
    const flow = this.#flows.get(key) ?? { running: 0, turns: this.#floor, waiting: [] };
    this.#flows.set(key, flow);
    return flow;
  }

  #session(key: string | undefined): SessionLine | undefined {
    if (key === undefined) return undefined;
    const session = this.#sessions.get(key) ?? { busy: false, waiting: [] };
    this.#sessions.set(key, session);
    return session;
  }
}

function isRunnable(entry: Entry): boolean {
  return entry.session === undefined || (!entry.session.busy && entry.session.waiting[0] === entry);
}

function remove(list: Entry[], entry: Entry): void {
  const at = list.indexOf(entry);
  if (at >= 0) list.splice(at, 1);
}

function gone(name: string): LLMPoolError {
  return new LLMPoolError("instance_unavailable", `instance ${name} takes no more requests`, { retryAfterSeconds: 1 });
}
