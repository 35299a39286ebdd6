import { backInSeconds, closedError, inUseError } from "../../core/store-errors.ts";
import type { Clock } from "../../lib/clock.ts";
import { LLMPoolError, messageOf } from "../../lib/errors.ts";
import { Connection, type ConnectionOptions, unavailable } from "./connection.ts";
import type { Held } from "./journal.ts";
import type { LuaList } from "./replies.ts";
import { listOf } from "./replies.ts";
import { SCRIPTS } from "./scripts/scripts.ts";

/** A router that has not been heard of for so long, in milliseconds, is gone, and others may settle what it holds. */
const LEASE_MS = 15_000;
/** A router that writes the heartbeats and has not been heard of for so long is relieved. */
export const DUTY_MS = 2_000;

export interface LinkOptions extends ConnectionOptions {
  /** This router's name, new with each start. */
  router: string;
  clock: Clock;
  /** A session that is not used for so long is forgotten, in milliseconds. */
  ttlMs: number;
  /** For tests: in place of the server's clock. */
  time: (() => { now: number; wall: number }) | undefined;
}

export interface Joined {
  /** Reservations that the store has of this router. */
  mine: string[];
  last: string;
  number: number;
  /** Another server, or the same one after a restart, than this router knew. */
  isOtherRun: boolean;
}

/** The router's standing with the store: away, or joined (connected, and counted in by the scripts), and then ready. */
export class Link {
  readonly #options: LinkOptions;
  #connection: Connection | undefined;
  #ready = false;
  #run: string | undefined;
  #why = "not connected yet";
  /** On the clock's scale: since when it is not ready, */
  #awaySince: number | undefined;
  /** and until when other routers may still say what they hold; after that it goes on without them. */
  #othersUntil: number | undefined;
  #closed = false;
  /** How often it has begun to join: what was asked before that may not be counted in. */
  joins = 0;

  constructor(options: LinkOptions) {
    this.#options = options;
  }

  get ready(): boolean {
    return this.#ready && this.#connection?.lost === undefined;
  }

  mustBeOpen(): void {
    if (this.#closed) throw closedError();
  }

  mustBeReady(): void {
    this.mustBeOpen();
    if (!this.ready) {
      throw unavailable(`the store is away: ${this.#connection?.lost ?? this.#why}`, undefined, this.#backInSeconds());
    }
  }

  /** Undefined: connected, but other routers have still to say what they hold. */
  async join(holds: (isOtherRun: boolean) => Held[]): Promise<Joined | undefined> {
    this.#ready = false;
    this.#awaySince ??= this.#options.clock.now();
    this.#othersUntil = undefined;
    this.joins++;
    if (this.#connection?.lost !== undefined) this.#connection = undefined;
    this.#connection ??= await Connection.open(this.#options).catch((error: unknown) => {
      this.#why = messageOf(error);
      throw error;
    });
    const { runId } = this.#connection;
    const isOtherRun = this.#run !== undefined && this.#run !== runId;
    const reply = (await this.#script("reassert", {
      newRun: runId,
      holds: holds(isOtherRun),
      restore: isOtherRun,
    })) as JoinReply;
    if (!reply.done) {
      this.#othersUntil = this.#options.clock.now() + reply.othersMs;
      this.#why = "Redis was restarted or replaced, and other routers have still to say what they hold";
      return undefined;
    }
    this.#run = runId;
    this.#ready = true;
    this.#awaySince = undefined;
    return { mine: listOf(reply.mine), last: reply.last, number: reply.number, isOtherRun };
  }

  /** One method's script. Rejects with what it refused, or with `store_unavailable`. */
  async call<T>(name: keyof typeof SCRIPTS, args: object): Promise<T> {
    this.mustBeReady();
    return (await this.#script(name, { ...args, run: this.#run })) as T;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    if (this.ready) await this.#script("leave", {}).catch(() => {});
    this.#connection?.close();
  }

  #backInSeconds(): number {
    const now = this.#options.clock.now();
    if (this.#othersUntil !== undefined) return Math.max(1, (this.#othersUntil - now) / 1000);
    return backInSeconds(now - (this.#awaySince ?? now));
  }

  async #script(name: keyof typeof SCRIPTS, args: object): Promise<unknown> {
    const { prefix, router, ttlMs, time } = this.#options;
    const common = { router, join: this.joins, ttl: ttlMs, leaseMs: LEASE_MS, dutyMs: DUTY_MS, ...time?.() };
    try {
      const connection = this.#connection;
      if (!connection) throw unavailable(this.#why);
      return await connection.run(SCRIPTS[name], prefix, { ...args, ...common });
    } catch (error) {
      throw this.#meaningOf(error);
    }
  }

  #meaningOf(error: unknown): LLMPoolError {
    if (error instanceof LLMPoolError) return error;
    const text = messageOf(error);
    const [kind] = text.split(" ");
    if (kind === "IN_USE") return inUseError();
    if (kind === "FULL") {
      return new LLMPoolError("queue_full", "as many episodes are active as one pool takes", { retryAfterSeconds: 10 });
    }
    if (kind === "REASSERT") {
      this.#ready = false;
      this.#why = text;
    }
    return unavailable(`Redis refused: ${text}`, error);
  }
}

interface JoinReply {
  done: boolean;
  /** While it is not: until the last lease of those that have still to say what they hold is over. */
  othersMs: number;
  mine: LuaList<string>;
  last: string;
  number: number;
}
