import type { Dispatcher } from "undici";

const HIGH_WATER_BYTES = 2 ** 20;

type Headers = Record<string, string | string[] | undefined>;

/**
 * One answer as it arrives. A stream drops what it holds when the connection breaks; this hands over every byte that came before the
 * break, so that a resumed download begins exactly there. `onActivity(true)` means that bytes are awaited from the network.
 */
export class Incoming implements Dispatcher.DispatchHandler {
  readonly #started = Promise.withResolvers<{ status: number; headers: Headers }>();
  readonly #onActivity: (waiting: boolean) => void;
  #controller: Dispatcher.DispatchController | undefined;
  #chunks: Buffer[] = [];
  #held = 0;
  #end: { error?: unknown } | undefined;
  #wake: (() => void) | undefined;

  constructor(onActivity: (waiting: boolean) => void) {
    this.#onActivity = onActivity;
    onActivity(true);
  }

  /** Status and headers; rejects when there will be none. */
  get head(): Promise<{ status: number; headers: Headers }> {
    return this.#started.promise;
  }

  /** The body. Throws what the answer failed with, after the last byte that came. */
  async *body(): AsyncGenerator<Buffer> {
    try {
      for (;;) {
        const chunk = this.#chunks.shift();
        if (chunk) {
          this.#held -= chunk.length;
          yield chunk;
          continue;
        }
        if (this.#end) {
          if ("error" in this.#end) throw this.#end.error;
          return;
        }
        if (this.#controller?.paused) {
          this.#onActivity(true);
          this.#controller.resume();
        }
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    } finally {
      this.abort(new Error("not read to its end"));
    }
  }

  /** Ends it with `reason`, at once, held bytes included. */
  abort(reason: unknown): void {
    this.#chunks = [];
    if (this.#end) return;
    this.#finish({ error: reason });
    this.#controller?.abort(reason instanceof Error ? reason : new Error("aborted", { cause: reason }));
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    if (this.#end) controller.abort(new Error("aborted before it began"));
  }

  onResponseStart(_: Dispatcher.DispatchController, status: number, headers: Headers): void {
    if (status < 200) return;
    this.#onActivity(true);
    this.#started.resolve({ status, headers });
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#end) return;
    this.#chunks.push(chunk);
    this.#held += chunk.length;
    if (this.#held >= HIGH_WATER_BYTES) controller.pause();
    this.#onActivity(!controller.paused);
    this.#wake?.();
  }

  onResponseEnd(): void {
    this.#finish({});
  }

  onResponseError(_: Dispatcher.DispatchController, error: Error): void {
    this.#finish({ error });
  }

  #finish(end: { error?: unknown }): void {
    if (this.#end) return;
    this.#end = end;
    this.#onActivity(false);
    this.#started.reject("error" in end ? end.error : new Error("an answer without a head"));
    // The body may be the one to report it.
    this.#started.promise.catch(() => {});
    this.#wake?.();
  }
}
