import { isDeepStrictEqual } from "node:util";
import type { InstanceState } from "../src/api/instance.ts";
import type { Clock } from "../src/lib/clock.ts";
import { type Ask, isOfRevision, readTold, type Target, type Told } from "./ask.ts";
import { isNotable } from "./speed.ts";

/** How soon an address is asked again, in milliseconds: while somebody there starts or is to be replaced, and when all are ready. */
const QUICK_MS = 2_000;
const SLOW_MS = 30_000;
/** How long a status waits for what those say of themselves that are new or have just become ready, in milliseconds: one write tells all of it then. */
const HOLD_MS = 200;
/** Answers that may be missed in a row before the last one counts no more. */
const MISSES = 3;

export interface ProberOptions {
  ask: Ask;
  clock: Clock;
  /** Something notable is known of a pool's instances. */
  onChange: (key: string) => void;
}

/**
 * Asks instances what only they know: their state while they start, what they compute on, how fast they are. It asks by its own clock and keeps what
 * was answered, so that no reconcile waits for an instance.
 */
export class Prober implements AsyncDisposable {
  readonly #options: ProberOptions;
  readonly #pools = new Map<string, { asked: Map<string, Asked>; remembered: ReadonlyMap<string, Told> }>();
  readonly #end = new AbortController();

  constructor(options: ProberOptions) {
    this.#options = options;
  }

  /**
   * From now on these are asked for a pool, and no others. What is new is asked at once, and what has become ready at once again.
   * @param remembered what an operator before this one was told, by instance id: it counts until those that are asked first have spoken
   */
  follow(key: string, targets: readonly Target[], remembered: ReadonlyMap<string, Told> = new Map()): void {
    const before = this.#pools.get(key);
    const known = before?.asked ?? new Map<string, Asked>();
    const next = new Map<string, Asked>();
    for (const target of targets) {
      const name = `${target.uid} ${target.url}`;
      const asked =
        known.get(name) ??
        new Asked(target, { ...this.#options, onChange: () => this.#options.onChange(key) }, this.#end.signal);
      asked.found(target);
      next.set(name, asked);
      known.delete(name);
    }
    for (const gone of known.values()) gone.close();
    if (next.size > 0) this.#pools.set(key, { asked: next, remembered: before?.remembered ?? remembered });
    else this.#pools.delete(key);
  }

  /** What is known of a pool's instances, by id. */
  told(key: string): ReadonlyMap<string, Told> {
    const pool = this.#pools.get(key);
    const asked = [...(pool?.asked.values() ?? [])];
    if (pool && !asked.some(({ waits }) => waits)) pool.remembered = new Map();
    return new Map([...(pool?.remembered ?? []), ...asked.flatMap(({ told }) => [...told])]);
  }

  /** What this very pod has said of its instances, by id: nothing that is remembered, or was said by the pod before it. */
  said(key: string, uid: string): ReadonlyMap<string, Told> {
    const own = [...(this.#pools.get(key)?.asked.values() ?? [])].filter((asked) => asked.uid === uid);
    return new Map(own.flatMap(({ told }) => [...told]));
  }

  /** Milliseconds for which somebody is about to say more; 0: nobody is. */
  waitMs(key: string): number {
    const now = this.#options.clock.now();
    return Math.max(0, ...[...(this.#pools.get(key)?.asked.values() ?? [])].map(({ heldUntil }) => heldUntil - now));
  }

  async close(): Promise<void> {
    const all = [...this.#pools.values()].flatMap(({ asked }) => [...asked.values()]);
    this.#pools.clear();
    this.#end.abort(new Error("the prober is closed"));
    for (const asked of all) asked.close();
    await Promise.all(all.map(({ running }) => running));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** One address that is asked again and again. */
class Asked {
  told: ReadonlyMap<string, Told> = new Map();
  /** It has not spoken yet, nor been silent for so long that it says nothing. */
  waits = true;
  running: Promise<void>;
  readonly uid: string;
  /** When nobody waits for its answer any more, on the clock. */
  heldUntil = 0;
  readonly #target: Target;
  readonly #options: { ask: Ask; clock: Clock; onChange: () => void };
  readonly #end = new AbortController();
  readonly #signal: AbortSignal;
  #misses = 0;
  #ready: boolean;
  #revisions: ReadonlyMap<string, string> | undefined;
  #cancel: () => void = () => {};

  constructor(target: Target, options: { ask: Ask; clock: Clock; onChange: () => void }, signal: AbortSignal) {
    this.#target = target;
    this.uid = target.uid;
    this.#options = options;
    this.#signal = AbortSignal.any([signal, this.#end.signal]);
    this.#ready = target.ready;
    this.#revisions = target.revisions;
    this.running = this.#look(HOLD_MS);
  }

  /** What a kubelet found, and what is wanted there: what it said before one of them changed is old. */
  found({ ready, revisions }: Target): void {
    const became = ready && !this.#ready;
    const edited = !isDeepStrictEqual(revisions, this.#revisions);
    this.#ready = ready;
    this.#revisions = revisions;
    if (became && !this.#says("Ready")) this.running = this.running.then(() => this.#look(HOLD_MS));
    else if (edited && !this.#isSettled()) this.running = this.running.then(() => this.#look());
  }

  close(): void {
    this.#cancel();
    this.#end.abort(new Error("nobody asks any more"));
  }

  async #look(holdMs = 0): Promise<void> {
    const { ask, clock, onChange } = this.#options;
    this.#cancel();
    this.heldUntil = clock.now() + holdMs;
    const answer = await ask(this.#target.url, this.#signal);
    if (this.#signal.aborted) return;
    this.heldUntil = 0;
    this.#misses = answer === undefined ? this.#misses + 1 : 0;
    const keeps = answer === undefined && this.#misses < MISSES;
    const next = keeps ? this.told : readTold(answer, this.#target);
    const silent = this.waits && this.#misses >= MISSES;
    this.waits &&= keeps;
    if (silent || isNews(this.told, next)) {
      this.told = next;
      onChange();
    }
    this.#cancel = clock.after(this.#isSettled() && !keeps ? SLOW_MS : QUICK_MS, () => {
      this.running = this.#look();
    });
  }

  /** All are Ready, and as they are wanted. */
  #isSettled(): boolean {
    const isWanted = ([id, revision]: [string, string]) => {
      const told = this.told.get(id);
      return told !== undefined && isOfRevision(told, revision);
    };
    return this.#says("Ready") && [...(this.#revisions ?? [])].every(isWanted);
  }

  #says(state: InstanceState): boolean {
    return this.told.size > 0 && [...this.told.values()].every((one) => one.state === state);
  }
}

/** Speeds wander all the time; only a notable change is news. */
function isNews(before: ReadonlyMap<string, Told>, after: ReadonlyMap<string, Told>): boolean {
  if (before.size !== after.size) return true;
  for (const [id, { tokensPerSecond, ...rest }] of after) {
    const { tokensPerSecond: known, ...others } = before.get(id) ?? {};
    if (!isDeepStrictEqual(rest, others) || isNotable(known, tokensPerSecond)) return true;
  }
  return false;
}
