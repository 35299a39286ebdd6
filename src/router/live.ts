import { Bag, type Bagged } from "../lib/bag.ts";
import type { Clock } from "../lib/clock.ts";
import type { Answer } from "./answer.ts";

/** A streaming caller gets its headers after this at the latest, in milliseconds: clients and proxies give up on silent connections. */
const HEADERS_AFTER_MS = 10_000;
/** A waiting stream hears something this often, in milliseconds. */
const COMMENT_EVERY_MS = 10_000;
/** A caller who reads nothing for so long, in milliseconds, is cut off: it holds a slot that others wait for. */
const UNREAD_LIMIT_MS = 30_000;
const SWEEP_MS = 250;
/** The store says within this that an episode has ended, in milliseconds; what goes on for longer has not heard of it. */
const NEWS_MS = 500;

export interface LiveCall extends Bagged {
  readonly answer: Answer;
  readonly startedAt: number;
  /** When its time is over, on the clock's scale. */
  readonly deadline: number;
  /** When its episode's is, as far as the store has told. */
  readonly episodeEnd: number;
  readonly streaming: boolean;
  /** What it waits for, in a word or two (`queued 3`, `prefill`); undefined once tokens flow. */
  readonly waitsFor: string | undefined;
  readonly tokens: number;
  /** Of `LiveCalls`: made when it looks for the first time. */
  watch: Watch | undefined;
}

export interface LiveCallsDeps<C> {
  clock: Clock;
  /** Every second while tokens flow: tokens are progress. */
  onTokens: (call: C) => void;
  /** The caller stopped reading. */
  onUnread: (call: C) => void;
  /** Its time is over. */
  onTimeout: (call: C) => void;
  /** The time of its episode is over, and nobody has said so; again and again until that changes. */
  onOverdue: (call: C) => void;
}

export interface Watch {
  commentAt: number;
  unreadSince: number | undefined;
  unread: number;
  tokensAt: number;
  reportedTokens: number;
  /** Set when the deadline is near. */
  cancelTimer: (() => void) | undefined;
}

/** What calls need as time passes, for all of them from one timer. Most calls end before it looks at them once, and cost it nothing. */
export class LiveCalls<C extends LiveCall> {
  readonly #deps: LiveCallsDeps<C>;
  readonly #calls = new Bag<C>();
  #cancel: (() => void) | undefined;

  constructor(deps: LiveCallsDeps<C>) {
    this.#deps = deps;
  }

  get size(): number {
    return this.#calls.size;
  }

  add(call: C): void {
    this.#calls.add(call);
    this.#timeOut(call, this.#deps.clock.now());
    this.#cancel ??= this.#deps.clock.after(SWEEP_MS, this.#sweep);
  }

  remove(call: C): void {
    this.#calls.delete(call);
    call.watch?.cancelTimer?.();
  }

  close(): void {
    this.#cancel?.();
    for (const call of this.#calls.list()) this.remove(call);
  }

  #sweep = (): void => {
    const { clock } = this.#deps;
    const now = clock.now();
    for (const call of this.#calls.list()) {
      call.watch ??= newWatch(call);
      const { watch } = call;
      if (call.streaming) {
        this.#speak(call, watch, now);
        this.#unread(call, watch, now);
      }
      this.#progress(call, watch, now);
      if (now - call.episodeEnd > NEWS_MS) this.#deps.onOverdue(call);
      this.#timeOut(call, now);
    }
    this.#cancel = this.#calls.size > 0 ? clock.after(SWEEP_MS, this.#sweep) : undefined;
  };

  /** A timer of its own only for the last moments of a call: few live to see them. */
  #timeOut(call: C, now: number): void {
    const leftMs = call.deadline - now;
    if (leftMs > 2 * SWEEP_MS) return;
    call.watch ??= newWatch(call);
    call.watch.cancelTimer ??= this.#deps.clock.after(leftMs, () => this.#deps.onTimeout(call));
  }

  #speak(call: C, watch: Watch, now: number): void {
    const { answer } = call;
    if (answer.ended) return;
    if (!answer.started) {
      if (now - call.startedAt < HEADERS_AFTER_MS) return;
      answer.startedEarly = true;
      answer.startStream();
    } else if (now - watch.commentAt < COMMENT_EVERY_MS) return;
    const stage = call.waitsFor;
    if (stage === undefined) return;
    watch.commentAt = now;
    answer.write(`: ${stage}\n\n`);
  }

  #unread(call: C, watch: Watch, now: number): void {
    const unread = call.answer.unread;
    if (unread === 0 || unread < watch.unread) watch.unreadSince = undefined;
    else watch.unreadSince ??= now;
    watch.unread = unread;
    if (watch.unreadSince !== undefined && now - watch.unreadSince >= UNREAD_LIMIT_MS) this.#deps.onUnread(call);
  }

  #progress(call: C, watch: Watch, now: number): void {
    const { tokens } = call;
    if (tokens === watch.reportedTokens || now - watch.tokensAt < 1000) return;
    watch.reportedTokens = tokens;
    watch.tokensAt = now;
    this.#deps.onTokens(call);
  }
}

function newWatch({ startedAt }: LiveCall): Watch {
  return {
    commentAt: startedAt,
    unreadSince: undefined,
    unread: 0,
    tokensAt: startedAt,
    reportedTokens: 0,
    cancelTimer: undefined,
  };
}
