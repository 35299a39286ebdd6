import type { InstancePlan } from "../core/plan/types.ts";
import type { DeadlineCode, Ticket } from "../core/queue.ts";
import type { AdmitRequest, Binding, Placement } from "../core/store.ts";
import { LLMPoolError } from "../lib/errors.ts";
import type { Answer } from "./answer.ts";
import type { Caller } from "./auth.ts";
import type { Identity } from "./identify.ts";
import type { LiveCall, Watch } from "./live.ts";
import type { Relay } from "./relay.ts";
import type { InferenceRequest, Route } from "./request.ts";

/** The caller closed its connection; never sent, only told apart. */
export const HANG_UP = new LLMPoolError("invalid_request", "the caller hung up");

/** One call to a model, from its first byte to its settled reservation. All of its state is here. */
export class Call implements LiveCall {
  /** Of the reservation that is open now; never the caller's own, which only the answer carries. */
  id: string;
  readonly route: Route;
  readonly answer: Answer;
  /** On the clock's scale, as all instants here. */
  readonly startedAt: number;
  /** Why it was cut off: the error that the caller is to see, or HANG_UP. */
  cutOff: LLMPoolError | undefined = undefined;
  /** The attempt that runs. */
  relay: Relay | undefined = undefined;
  #abort: AbortController | undefined = undefined;
  tenant = "";
  role = "none";
  episodeId: string | undefined = undefined;
  streaming = false;
  /**
   * What it waits for; undefined once tokens flow. No closure: V8 puts a function literal that is assigned to a property among the old
   * objects, and what it can reach, here all of the call, stays until the next full collection.
   */
  stage: "queued" | "prefill" | undefined = undefined;
  /** Its place in this router's line, while it waits there, */
  ticket: Ticket | undefined = undefined;
  /** and in the instance's, as that last told it, and since when. */
  position = 0;
  queuedAt: number | undefined = undefined;
  /** When its own time is over, and when its episode's is. */
  deadline = Number.POSITIVE_INFINITY;
  episodeEnd = Number.POSITIVE_INFINITY;
  /** Its attempt is not its first: it counts in the router's budget of retries. */
  retries = false;
  /** In lines, over all attempts, in milliseconds. */
  waitedMs = 0;
  /** When the last attempt left for its instance. */
  sentAt = 0;
  firstTokenAt = 0;
  tokens = 0;
  lastTokenAt = 0;
  watch: Watch | undefined = undefined;
  place = -1;

  constructor(id: string, route: Route, answer: Answer, startedAt: number) {
    this.id = id;
    this.route = route;
    this.answer = answer;
    this.startedAt = startedAt;
  }

  /** Ends it now, wherever it is; the first reason counts. */
  abort(reason: LLMPoolError): void {
    if (this.cutOff) return;
    this.cutOff = reason;
    this.relay?.abort();
    this.#abort?.abort(reason);
  }

  /** Made for the first who asks: most calls wait for nothing. */
  get signal(): AbortSignal {
    if (!this.#abort) {
      this.#abort = new AbortController();
      if (this.cutOff) this.#abort.abort(this.cutOff);
    }
    return this.#abort.signal;
  }

  get waitsFor(): string | undefined {
    return this.stage === "queued" ? `queued ${this.ticket?.position() ?? this.position}` : this.stage;
  }
}

export type NewBinding = Omit<Binding, "lastUsedAt">;
/** What an admitted call needs to run. */
export interface Job {
  request: InferenceRequest;
  caller: Caller;
  identity: Identity;
  binding: NewBinding | undefined;
  instance: InstancePlan;
  /** How it was admitted. */
  ask: AdmitRequest;
  /** Where the store has the open reservation. */
  placed: Placement;
  /** Tokens set aside: the instance's hard limit. */
  reserved: number;
  /** From `flowOf`. */
  flow: string;
  /** How many may wait at an instance. */
  queueLimit: number;
  /** Prompt tokens that no warm cache can spare. */
  prefillTokens: number;
  /** The instance on which the session has lived so far. */
  home: string | undefined;
}

/** What ends the wait of a call, and the code that says so. */
export function limitOf({ deadline, episodeEnd }: Call): { deadline: number; code: DeadlineCode } {
  return episodeEnd < deadline
    ? { deadline: episodeEnd, code: "episode_deadline_exceeded" }
    : { deadline, code: "request_timeout" };
}

/** What its caller hears when its own time is over. */
export function timeoutError({ deadline, startedAt }: Call): LLMPoolError {
  const seconds = Math.round(deadline - startedAt) / 1000;
  return new LLMPoolError("request_timeout", `the request did not end within ${seconds} s`, {
    param: "x-request-timeout",
  });
}
