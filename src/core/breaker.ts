import type { Clock } from "../lib/clock.ts";

/** Failures in a row that open a breaker. */
export const FAILURES_TO_OPEN = 5;
/** How long an open breaker lets nothing through, in milliseconds. */
export const OPEN_MS = 30_000;

export type BreakerState = "closed" | "open" | "half-open";

/** One request to an endpoint. Whichever is called first counts; a failure is the endpoint's (no connection, 5xx, silence), never the caller's. */
export interface Attempt {
  succeeded(): void;
  failed(): void;
  /** It says nothing about the endpoint: the caller hung up, its deadline came. */
  abandoned(): void;
}

interface Breaker {
  readonly uid: string;
  readonly variant: string;
  state: BreakerState;
  /** In a row. */
  failures: number;
  probing: boolean;
  /** On the clock's scale, while it is open: when a probe may go. */
  probeAt: number;
  cancelTimer: () => void;
}

/**
 * One breaker per endpoint. `closed`: traffic flows; FAILURES_TO_OPEN failures in a row open it. `open`: no traffic for OPEN_MS. Then
 * `half-open`: one request at a time is let through as a probe; its success closes the breaker, its failure opens it again.
 *
 * At least one endpoint of a variant stays closed: the last one is not opened, and when those that were closed go away, the rest is closed.
 * A fault that hits all endpoints is more often the router's, or a request's, than theirs.
 */
export class Breakers {
  readonly #clock: Clock;
  readonly #onChange: (uid: string, state: BreakerState) => void;
  readonly #breakers = new Map<string, Breaker>();

  /** `onChange` is called after each change of what is let through, so also when a probe ended and another may go. */
  constructor(clock: Clock, onChange: (uid: string, state: BreakerState) => void) {
    this.#clock = clock;
    this.#onChange = onChange;
  }

  /** The endpoints there are now. Another uid is another process: it begins closed. */
  follow(endpoints: Iterable<{ uid: string; variant: string }>): void {
    const gone = new Map(this.#breakers);
    for (const { uid, variant } of endpoints) {
      gone.delete(uid);
      if (this.#breakers.has(uid)) continue;
      this.#breakers.set(uid, {
        uid,
        variant,
        state: "closed",
        failures: 0,
        probing: false,
        probeAt: 0,
        cancelTimer: () => {},
      });
    }
    for (const [uid, breaker] of gone) {
      breaker.cancelTimer();
      this.#breakers.delete(uid);
    }
    for (const breaker of this.#breakers.values()) if (!this.#hasClosed(breaker.variant)) this.#close(breaker);
  }

  /** `closed` for an endpoint that is not known. */
  state(uid: string): BreakerState {
    return this.#breakers.get(uid)?.state ?? "closed";
  }

  /** Milliseconds until a probe of it may go; 0 where it is not open. */
  probeInMs(uid: string): number {
    const breaker = this.#breakers.get(uid);
    return breaker?.state === "open" ? Math.max(0, breaker.probeAt - this.#clock.now()) : 0;
  }

  /** Whether a request may go there now. */
  allows(uid: string): boolean {
    const breaker = this.#breakers.get(uid);
    return !breaker || breaker.state === "closed" || (breaker.state === "half-open" && !breaker.probing);
  }

  /** A request goes there; call it only where `allows`. */
  begin(uid: string): Attempt {
    const breaker = this.#breakers.get(uid);
    const isProbe = breaker?.state === "half-open";
    if (breaker && isProbe) breaker.probing = true;
    return new Told(this.#tell, breaker, isProbe);
  }

  readonly #tell = (breaker: Breaker, isProbe: boolean, how: keyof Attempt): void => {
    // A process that is gone has nothing to learn from; nor does an open breaker from requests sent before it opened.
    if (this.#breakers.get(breaker.uid) !== breaker) return;
    if (isProbe) breaker.probing = false;
    if (isProbe !== (breaker.state === "half-open") || breaker.state === "open") return;
    if (how === "succeeded") this.#close(breaker);
    else if (how === "failed") this.#fail(breaker);
    else if (isProbe) this.#onChange(breaker.uid, breaker.state);
  };

  close(): void {
    for (const breaker of this.#breakers.values()) breaker.cancelTimer();
    this.#breakers.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  #fail(breaker: Breaker): void {
    breaker.failures++;
    if (breaker.state === "closed" && breaker.failures < FAILURES_TO_OPEN) return;
    if (breaker.state === "closed" && !this.#hasClosed(breaker.variant, breaker)) return;
    breaker.probeAt = this.#clock.now() + OPEN_MS;
    breaker.cancelTimer = this.#clock.after(OPEN_MS, () => this.#move(breaker, "half-open"));
    this.#move(breaker, "open");
  }

  #close(breaker: Breaker): void {
    breaker.failures = 0;
    breaker.cancelTimer();
    this.#move(breaker, "closed");
  }

  #move(breaker: Breaker, state: BreakerState): void {
    if (breaker.state === state) return;
    breaker.state = state;
    this.#onChange(breaker.uid, state);
  }

  #hasClosed(variant: string, besides?: Breaker): boolean {
    for (const b of this.#breakers.values()) {
      if (b !== besides && b.variant === variant && b.state === "closed") return true;
    }
    return false;
  }
}

/** Passes on the first thing it hears. */
class Told implements Attempt {
  readonly #tell: (breaker: Breaker, isProbe: boolean, how: keyof Attempt) => void;
  #breaker: Breaker | undefined;
  readonly #isProbe: boolean;

  constructor(
    tell: (breaker: Breaker, isProbe: boolean, how: keyof Attempt) => void,
    breaker: Breaker | undefined,
    isProbe: boolean,
  ) {
    this.#tell = tell;
    this.#breaker = breaker;
    this.#isProbe = isProbe;
  }

  succeeded(): void {
    this.#once("succeeded");
  }
  failed(): void {
    this.#once("failed");
  }
  abandoned(): void {
    this.#once("abandoned");
  }

  #once(how: keyof Attempt): void {
    const breaker = this.#breaker;
    this.#breaker = undefined;
    if (breaker) this.#tell(breaker, this.#isProbe, how);
  }
}
