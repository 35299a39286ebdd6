import type { Clock } from "../lib/clock.ts";
import type { Answer } from "./answer.ts";

/** A streaming caller gets its headers after this at the latest, in milliseconds: clients and proxies give up on silent connections. */
const HEADERS_AFTER_MS = 10_000;
/** A waiting stream hears something this often, in milliseconds. */
const COMMENT_EVERY_MS = 10_000;
/** A caller who reads nothing for so long, in milliseconds, is cut off: it holds a slot that others wait for. */
const UNREAD_LIMIT_MS = 30_000;
const SWEEP_MS = 250;

export interface LiveCall {
  answer: Answer;
  startedAt: number;
  streaming: boolean;
  /** What it waits for, in a word or two (`queued 3`, `prefill`); undefined once tokens flow. */
  stage: () => string | undefined;
  /** Every second while tokens flow: tokens are progress. */
  onTokens: () => void;
  /** The caller stopped reading. */
  onUnread: () => void;
  tokens: () => number;
}

interface Watched extends LiveCall {
  commentAt: number;
  unreadSince: number | undefined;
  unread: number;
  tokensAt: number;
  reportedTokens: number;
}

/** What calls need as time passes, for all of them from one timer. */
export class LiveCalls {
  readonly #calls = new Set<Watched>();
  readonly #clock: Clock;
  #cancel: (() => void) | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get size(): number {
    return this.#calls.size;
  }

  /** The returned function ends the watch. */
  add(call: LiveCall): () => void {
    const watched: Watched = {
      ...call,
      commentAt: call.startedAt,
      unreadSince: undefined,
      unread: 0,
      tokensAt: call.startedAt,
      reportedTokens: 0,
    };
    this.#calls.add(watched);
    this.#cancel ??= this.#clock.after(SWEEP_MS, this.#sweep);
    return () => this.#calls.delete(watched);
  }

  close(): void {
    this.#cancel?.();
    this.#calls.clear();
  }

  #sweep = (): void => {
    const now = this.#clock.now();
    for (const call of this.#calls) {
      if (call.streaming) {
        this.#speak(call, now);
        this.#unread(call, now);
      }
      this.#progress(call, now);
    }
    this.#cancel = this.#calls.size > 0 ? this.#clock.after(SWEEP_MS, this.#sweep) : undefined;
  };

  #speak(call: Watched, now: number): void {
    const { answer } = call;
    if (answer.ended) return;
    if (!answer.started) {
      if (now - call.startedAt < HEADERS_AFTER_MS) return;
      answer.startedEarly = true;
      answer.startStream();
    } else if (now - call.commentAt < COMMENT_EVERY_MS) return;
    const stage = call.stage();
    if (stage === undefined) return;
    call.commentAt = now;
    answer.write(`: ${stage}\n\n`);
  }

  #unread(call: Watched, now: number): void {
    const unread = call.answer.unread;
    if (unread === 0 || unread < call.unread) call.unreadSince = undefined;
    else call.unreadSince ??= now;
    call.unread = unread;
    if (call.unreadSince !== undefined && now - call.unreadSince >= UNREAD_LIMIT_MS) call.onUnread();
  }

  #progress(call: Watched, now: number): void {
    const tokens = call.tokens();
    if (tokens === call.reportedTokens || now - call.tokensAt < 1000) return;
    call.reportedTokens = tokens;
    call.tokensAt = now;
    call.onTokens();
  }
}
