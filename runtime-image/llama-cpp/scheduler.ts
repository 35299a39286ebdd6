import type { ChunkSizer } from "./chunk-sizer.ts";

/** One step of the engine, in the order of their beginning. */
export type Step = { kind: "prefill"; label: string; tokens: number } | { kind: "decode"; labels: string[] };

/** Evaluates tokens `from` (inclusive) to `to` (exclusive) of a prompt. */
export type EvaluateChunk = (from: number, to: number) => Promise<void>;

interface Prefill {
  label: string;
  at: number;
  total: number;
  evaluate: EvaluateChunk;
  signal: AbortSignal;
  end: (error?: unknown) => void;
}

interface Decode {
  label: string;
  run: () => Promise<void>;
}

/** The oldest prompt gets every so manieth chunk, so that short prompts cannot hold it up for ever. */
const OLDEST_EVERY = 4;

/**
 * Decides what the one engine computes next. All decode steps that wait run together as one batch; after each batch one chunk of one
 * prompt. So a long prompt costs a decoding session one chunk per token, and a prompt always moves on. Among prompts the one with the
 * fewest tokens left goes first: a next turn of a few tokens does not wait for a cold history.
 */
export class Scheduler {
  readonly #sizer: ChunkSizer;
  readonly #now: () => number;
  readonly #trace: ((step: Step) => void) | undefined;
  #prefills: Prefill[] = [];
  #decodes: Decode[] = [];
  #loop: Promise<void> | undefined;
  /** The prompt whose chunk is computed now. */
  #running: Prefill | undefined;
  #chunks = 0;
  #decodersSeen = 0;

  /** @param now milliseconds, monotonic. */
  constructor(sizer: ChunkSizer, now: () => number, trace?: (step: Step) => void) {
    this.#sizer = sizer;
    this.#now = now;
    this.#trace = trace;
  }

  /** Calls `evaluate` for one stretch of tokens after another. An abort rejects with its reason, at the end of the chunk that runs. */
  prefill(label: string, total: number, evaluate: EvaluateChunk, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason);
      if (total === 0) return resolve();
      const end = (error?: unknown) => {
        signal.removeEventListener("abort", onAbort);
        this.#prefills = this.#prefills.filter((p) => p !== work);
        if (error === undefined) resolve();
        else reject(error);
      };
      const onAbort = () => {
        if (this.#running !== work) end(signal.reason);
      };
      const work: Prefill = { label, at: 0, total, evaluate, signal, end };
      signal.addEventListener("abort", onAbort, { once: true });
      this.#prefills.push(work);
      this.#wake();
    });
  }

  /** Runs `step` in the next batch. An abort that comes before it began rejects; a step that began is finished. */
  decode<T>(label: string, step: () => Promise<T>, signal: AbortSignal): Promise<T> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason);
      const onAbort = () => {
        this.#decodes = this.#decodes.filter((d) => d !== work);
        reject(signal.reason);
      };
      const work: Decode = {
        label,
        run: () => {
          signal.removeEventListener("abort", onAbort);
          return step().then(resolve, reject);
        },
      };
      signal.addEventListener("abort", onAbort, { once: true });
      this.#decodes.push(work);
      this.#wake();
    });
  }

  /** Resolves when nothing is computed and nothing waits. */
  async idle(): Promise<void> {
    while (this.#loop !== undefined) await this.#loop;
  }

  #wake(): void {
    this.#loop ??= this.#run().finally(() => {
      this.#loop = undefined;
      if (this.#prefills.length + this.#decodes.length > 0) this.#wake();
    });
  }

  async #run(): Promise<void> {
    while (this.#prefills.length + this.#decodes.length > 0) {
      // Sessions whose token just came ask for their next one in this pause, and so share a batch.
      await new Promise((resolve) => setImmediate(resolve));
      await this.#decodeAll();
      await this.#oneChunk();
    }
  }

  async #decodeAll(): Promise<void> {
    const batch = this.#decodes;
    this.#decodes = [];
    this.#decodersSeen = batch.length;
    if (batch.length === 0) return;
    this.#trace?.({ kind: "decode", labels: batch.map((d) => d.label) });
    await Promise.all(batch.map((d) => d.run()));
  }

  async #oneChunk(): Promise<void> {
    const work = this.#next();
    if (!work) return;
    const size = Math.min(work.total - work.at, this.#sizer.next(this.#decodersSeen > 0));
    this.#trace?.({ kind: "prefill", label: work.label, tokens: size });
    this.#running = work;
    const began = this.#now();
    try {
      await work.evaluate(work.at, work.at + size);
      this.#sizer.record(size, this.#now() - began);
      work.at += size;
      if (work.signal.aborted) work.end(work.signal.reason);
      else if (work.at === work.total) work.end();
    } catch (error) {
      work.end(error);
    } finally {
      this.#running = undefined;
    }
  }

  #next(): Prefill | undefined {
    this.#chunks += 1;
    if (this.#chunks % OLDEST_EVERY === 0) return this.#prefills[0];
    return this.#prefills.reduce<Prefill | undefined>(
      (best, p) => (best === undefined || p.total - p.at < best.total - best.at ? p : best),
      undefined,
    );
  }
}
