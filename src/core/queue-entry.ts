import type { Bagged } from "../lib/bag.ts";
import type { Flow } from "./fair-share.ts";
import type { IndexedHeap } from "./indexed-heap.ts";

export interface QueueItem {
  /** Who competes as one, from `flowOf`. */
  flow: string;
  /** Key of the session: its turns run one after another, in the order they came. */
  session?: string;
  /** On the clock's scale, in milliseconds: not started at or after it. */
  deadline: number;
  /** Which limit that deadline is: the code of the refusal. */
  deadlineCode: DeadlineCode;
  /** Prompt tokens that must be read in any case: 0 when the session's cache may be warm. */
  prefillTokens: number;
  /** Needs its session, and computes nothing. */
  slotless?: boolean;
  /** How long it has waited elsewhere already, in milliseconds: it is as old as that here. */
  waitedMs?: number;
  /** Ends the wait with its reason. Asked for only when there is a wait. */
  signal?: () => AbortSignal;
}

export type DeadlineCode = "request_timeout" | "episode_deadline_exceeded";

/** A place in the queue. */
export interface Ticket {
  /** Rejects with `request_timeout`, `episode_deadline_exceeded`, `queue_full` (gave way to others), or the reason it was cancelled with. */
  readonly slot: Promise<Slot>;
  /** The slot of one that did not have to wait. */
  readonly atOnce: Slot | undefined;
  /** How many start before it if nothing changes, plus one; 0 once it waits no more. */
  position(): number;
  /** The limit moved, because the episode was extended. */
  setDeadline(deadline: number, code: DeadlineCode): void;
  /** Gives up the place, or the slot if it was granted just now. */
  cancel(reason: unknown): void;
}

/** The right to run on the instance, until released. */
export interface Slot extends Disposable {
  /** In this line, in milliseconds. */
  readonly waitedMs: number;
  release(): void;
}

/** A flow in the line of one instance. */
export interface FlowLine extends Flow {
  /** By arrival, as in every list here. */
  waiting: Entry[];
  /** Those of them that lack nothing but a slot. Made when it is needed: most requests never wait. */
  ready: IndexedHeap<Entry> | undefined;
}

/** A session in the line: at most one of its turns runs. */
export interface SessionLine {
  busy: boolean;
  waiting: Entry[];
  /** The one of them that is among its flow's ready. */
  next: Entry | undefined;
}

/** What an entry asks of its queue. */
export interface Line {
  leave(entry: Entry, reason: unknown): void;
  release(entry: Entry): void;
  position(entry: Entry): number;
  move(entry: Entry, deadline: number): void;
}

/** One request: its ticket while it waits, its slot while it runs. */
export class Entry implements Ticket, Slot, Bagged {
  place = -1;
  state: "waiting" | "running" | "done" = "waiting";
  deadline: number;
  deadlineCode: DeadlineCode;
  startedAt = 0;
  readonly item: QueueItem;
  readonly flow: FlowLine;
  readonly session: SessionLine | undefined;
  readonly arrivedAt: number;
  readonly arrival: number;
  readonly prefillTokens: number;
  /** Came into this line. */
  readonly #cameAt: number;
  readonly #line: Line;
  /** Of who has to wait. */
  #wait: PromiseWithResolvers<Slot> | undefined;
  #onAbort: (() => void) | undefined;

  constructor(
    item: QueueItem,
    flow: FlowLine,
    session: SessionLine | undefined,
    now: number,
    arrival: number,
    line: Line,
  ) {
    this.item = item;
    this.flow = flow;
    this.session = session;
    this.arrivedAt = now - (item.waitedMs ?? 0);
    this.arrival = arrival;
    this.deadline = item.deadline;
    this.deadlineCode = item.deadlineCode;
    this.prefillTokens = item.prefillTokens;
    this.#cameAt = now;
    this.#line = line;
  }

  get waitedMs(): number {
    return this.startedAt - this.#cameAt;
  }
  get slot(): Promise<Slot> {
    return this.#wait?.promise ?? Promise.resolve(this);
  }
  get atOnce(): Slot | undefined {
    return this.#wait ? undefined : this;
  }

  position(): number {
    return this.#line.position(this);
  }

  setDeadline(deadline: number, code: DeadlineCode): void {
    this.deadlineCode = code;
    this.#line.move(this, deadline);
  }

  cancel(reason: unknown): void {
    if (this.state === "waiting") this.#line.leave(this, reason);
    else this.release();
  }

  release(): void {
    this.#line.release(this);
  }

  [Symbol.dispose](): void {
    this.release();
  }

  wait(): void {
    this.#wait = Promise.withResolvers<Slot>();
    this.#wait.promise.catch(() => {}); // whoever cancelled need not look at it
    const signal = this.item.signal?.();
    if (!signal) return;
    // Not assigned as a literal: V8 would make it an old object, which keeps this entry until the next full collection.
    const onAbort = () => this.cancel(signal.reason);
    this.#onAbort = onAbort;
    signal.addEventListener("abort", onAbort, { once: true });
  }

  start(now: number): void {
    this.state = "running";
    this.startedAt = now;
    this.#unlisten();
    this.#wait?.resolve(this);
  }

  reject(reason: unknown): void {
    this.#unlisten();
    this.#wait?.reject(reason);
  }

  #unlisten(): void {
    if (this.#onAbort) this.item.signal?.().removeEventListener("abort", this.#onAbort);
    this.#onAbort = undefined;
  }
}
