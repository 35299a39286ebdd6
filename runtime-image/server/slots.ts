import { LLMPoolError } from "../../src/lib/errors.ts";

interface Waiter {
  session: string | undefined;
  needsSlot: boolean;
  enter: () => void;
}

/**
 * Who may compute: at most `slots` requests at once, and one at a time of each session. The others wait in their order of arrival; one whose
 * session is busy lets later ones pass.
 */
export class Slots {
  readonly #slots: number;
  readonly #maxWaiting: number;
  readonly #onRunning: (running: number) => void;
  readonly #busy = new Set<string>();
  #queue: Waiter[] = [];
  #running = 0;
  #held = 0;
  #idleWaiters: (() => void)[] = [];

  /** `onRunning` is told how many requests run, whenever that changes. */
  constructor(slots: number, maxWaiting: number, onRunning: (running: number) => void) {
    this.#slots = slots;
    this.#maxWaiting = maxWaiting;
    this.#onRunning = onRunning;
  }

  get running(): number {
    return this.#running;
  }
  get waiting(): number {
    return this.#queue.length;
  }

  /** A slot, and the session where there is one; to be given back by disposing. Rejects with `queue_full` or the signal's reason. */
  slot(session: string | undefined, signal: AbortSignal): Promise<Disposable> {
    return this.#enter({ session, needsSlot: true }, signal);
  }

  /** The session alone, for what changes its cache without computing. */
  session(session: string, signal: AbortSignal): Promise<Disposable> {
    return this.#enter({ session, needsSlot: false }, signal);
  }

  /** Resolves when nobody runs or waits. */
  idle(): Promise<void> {
    if (this.#held === 0 && this.#queue.length === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idleWaiters.push(resolve));
  }

  #enter(want: Omit<Waiter, "enter">, signal: AbortSignal): Promise<Disposable> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason);
      const waiter: Waiter = {
        ...want,
        enter: () => {
          signal.removeEventListener("abort", onAbort);
          resolve(this.#take(want));
        },
      };
      const onAbort = () => {
        this.#queue = this.#queue.filter((other) => other !== waiter);
        this.#wakeIdle();
        reject(signal.reason);
      };
      // With anyone in front who could go, that one would have gone: to fit now is to be next.
      if (this.#fits(want)) return waiter.enter();
      if (this.#queue.length >= this.#maxWaiting) {
        return reject(
          new LLMPoolError("queue_full", `${this.#queue.length} requests wait on this instance already`, {
            retryAfterSeconds: 1,
          }),
        );
      }
      this.#queue.push(waiter);
      signal.addEventListener("abort", onAbort, { once: true });
    });
  }

  #fits({ session, needsSlot }: Omit<Waiter, "enter">): boolean {
    return (!needsSlot || this.#running < this.#slots) && (session === undefined || !this.#busy.has(session));
  }

  #take({ session, needsSlot }: Omit<Waiter, "enter">): Disposable {
    this.#held += 1;
    if (session !== undefined) this.#busy.add(session);
    if (needsSlot) this.#count(+1);
    let held = true;
    return {
      [Symbol.dispose]: () => {
        if (!held) return;
        held = false;
        this.#held -= 1;
        if (session !== undefined) this.#busy.delete(session);
        if (needsSlot) this.#count(-1);
        this.#letIn();
        this.#wakeIdle();
      },
    };
  }

  #count(by: number): void {
    this.#running += by;
    this.#onRunning(this.#running);
  }

  /** In order, everyone who fits; each that enters may make the next one not fit. */
  #letIn(): void {
    const stay: Waiter[] = [];
    const queue = this.#queue;
    this.#queue = stay;
    for (const waiter of queue) {
      if (this.#fits(waiter)) waiter.enter();
      else stay.push(waiter);
    }
  }

  #wakeIdle(): void {
    if (this.#held > 0 || this.#queue.length > 0) return;
    const waiters = this.#idleWaiters;
    this.#idleWaiters = [];
    for (const wake of waiters) wake();
  }
}
