import { InstanceQueue, type QueueItem, type QueueLimits, type Ticket } from "../../src/core/queue.ts";
import type { Speed } from "../../src/core/speed.ts";
import type { Clock } from "../../src/lib/clock.ts";

export interface SlotsOptions {
  /** The instance's id, for messages. */
  id: string;
  /** Requests that compute at once. */
  slots: number;
  /** Requests that wait. */
  waiting: number;
  clock: Clock;
  /** What refusals go by. */
  speed: Speed;
  /** Told how many requests compute, whenever that changes. */
  onRunning: (running: number) => void;
}

/**
 * Who may compute: the one line in which the requests of all routers stand (`InstanceQueue` orders it), and, of each session, one turn at a
 * time.
 */
export class Slots {
  readonly #queue: InstanceQueue;
  readonly #onRunning: (running: number) => void;
  #limits: QueueLimits;
  #running = 0;
  #idleWaiters: (() => void)[] = [];

  constructor({ id, slots, waiting, clock, speed, onRunning }: SlotsOptions) {
    this.#limits = { slots, waiting };
    this.#queue = new InstanceQueue(id, { clock, speed, onChange: () => this.#changed() }, this.#limits);
    this.#onRunning = onRunning;
  }

  get running(): number {
    return this.#queue.running;
  }
  get waiting(): number {
    return this.#queue.waiting;
  }

  /** A place in the line, or a slot at once. `waiting`: the most that may wait, where the caller says. Throws as `InstanceQueue.enqueue`. */
  ask(item: QueueItem, waiting = this.#limits.waiting): Ticket {
    if (waiting !== this.#limits.waiting) {
      this.#limits = { ...this.#limits, waiting };
      this.#queue.resize(this.#limits);
    }
    return this.#queue.enqueue(item);
  }

  /** The session alone, for what changes its cache without computing. Rejects with `queue_full` or the signal's reason. */
  async session(session: string, signal: AbortSignal): Promise<Disposable> {
    return this.#queue.enqueue({ ...SESSION_ALONE, session, signal: () => signal }).slot;
  }

  /** Resolves when nobody runs or waits. */
  idle(): Promise<void> {
    if (this.#queue.idle) return Promise.resolve();
    return new Promise((resolve) => this.#idleWaiters.push(resolve));
  }

  #changed(): void {
    const { running, idle } = this.#queue;
    if (running !== this.#running) {
      this.#running = running;
      this.#onRunning(running);
    }
    if (!idle) return;
    for (const wake of this.#idleWaiters.splice(0)) wake();
  }
}

const SESSION_ALONE = {
  flow: "",
  deadline: Number.POSITIVE_INFINITY,
  deadlineCode: "request_timeout",
  prefillTokens: 0,
  slotless: true,
} as const;
