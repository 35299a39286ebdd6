import { randomUUID } from "node:crypto";
import type { LLMBackend } from "../../src/api/backend.ts";
import type { InstanceIdentity, InstanceReadiness, InstanceState, Warmup } from "../../src/api/instance.ts";
import { Speed } from "../../src/core/speed.ts";
import type { Clock } from "../../src/lib/clock.ts";
import { LLMPoolError } from "../../src/lib/errors.ts";

/**
 * Where the instance is in its life: Pending, Loading, WarmingUp, Ready, Draining, or Failed. Work is taken in Ready alone; sessions may still be
 * read and moved while it drains.
 */
export class InstanceStatus {
  readonly #id: string;
  readonly #clock: Clock;
  readonly #boot = randomUUID();
  readonly #startedAt: number;
  /** Of what it has answered since its start. */
  readonly speed = new Speed();
  #state: InstanceState = "Pending";
  #backend: LLMBackend | undefined;
  #warmup: Warmup | undefined;

  constructor(id: string, clock: Clock) {
    this.#id = id;
    this.#clock = clock;
    this.#startedAt = clock.now();
  }

  get state(): InstanceState {
    return this.#state;
  }
  /** Set from the end of loading on. */
  get backend(): LLMBackend | undefined {
    return this.#backend;
  }

  /** Draining and Failed are final. */
  become(state: InstanceState, backend = this.#backend): void {
    this.#backend = backend;
    if (this.#state === "Failed" || (this.#state === "Draining" && state !== "Failed")) return;
    this.#state = state;
  }

  warmedUp(warmup: Warmup): void {
    this.#warmup = warmup;
  }

  readiness(): InstanceReadiness {
    const state = this.#state;
    if (!this.#backend || !this.#warmup) return { state };
    const measured = this.speed.decodeTokensPerSecond || this.#warmup.tokensPerSecond;
    return {
      state,
      device: this.#backend.facts.device,
      warmup_s: this.#warmup.seconds,
      tokens_per_second: measured,
    };
  }

  identity(): InstanceIdentity {
    return { id: this.#id, boot: this.#boot, uptime_s: (this.#clock.now() - this.#startedAt) / 1000 };
  }

  /** The backend for new work, or `instance_unavailable`. */
  forWork(): LLMBackend {
    if (this.#state === "Ready" && this.#backend) return this.#backend;
    throw this.#unavailable();
  }

  /** The backend for what moves or frees sessions. */
  forSessions(): LLMBackend {
    if ((this.#state === "Ready" || this.#state === "Draining") && this.#backend) return this.#backend;
    throw this.#unavailable();
  }

  #unavailable(): LLMPoolError {
    return new LLMPoolError("instance_unavailable", `this instance takes no work: it is ${this.#state}`, {
      retryAfterSeconds: 1,
    });
  }
}
