import type { Clock } from "../lib/clock.ts";

/**
 * A stream that is silent for so long, in milliseconds, is doubted. A server says something on a watch once a minute at least (a bookmark);
 * what a stalled connection withholds is known sooner than that.
 */
const DOUBT_MS = 40_000;

/** Nothing came, neither on the stream nor on the one that was to make sure. */
export class SilentError extends Error {
  override readonly name = "SilentError";

  constructor() {
    super("the watch is silent");
  }
}

/**
 * Runs a stream that may stall without ending: behind a proxy that lost its other side, a connection stays open for ever. When it has been
 * silent for 40 s, a second one is opened from the same place, and whichever speaks first stays; the other is aborted, so that nothing is
 * delivered twice. A quiet stream that works costs one more request a minute; cutting it instead would lose the bookmarks that keep it from
 * growing too old.
 *
 * @param open runs one stream until it ends, and calls `speaks` before it delivers anything.
 * Ends as the last open stream ends; rejects with SilentError when two of them were silent, or with the signal's reason.
 */
export function runDoubted(
  clock: Clock,
  open: (speaks: () => void, signal: AbortSignal) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const streams = new Set<AbortController>();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let cancelDoubt = () => {};

  const cut = (reason: unknown, except?: AbortController) => {
    for (const stream of streams) {
      if (stream === except) continue;
      streams.delete(stream);
      stream.abort(reason);
    }
  };
  const ended = (stream: AbortController, settle: () => void) => {
    if (streams.delete(stream) && streams.size === 0) settle();
  };
  const begin = () => {
    const stream = new AbortController();
    streams.add(stream);
    const speaks = () => {
      cut(new SilentError(), stream);
      doubtLater();
    };
    open(speaks, stream.signal).then(
      () => ended(stream, resolve),
      (error: unknown) => ended(stream, () => reject(error)),
    );
    doubtLater();
  };
  const doubtLater = () => {
    cancelDoubt();
    cancelDoubt = clock.after(DOUBT_MS, () => {
      if (streams.size === 1) begin();
      else stop(new SilentError());
    });
  };
  const stop = (reason: unknown) => {
    cut(reason);
    reject(reason);
  };
  const onAbort = () => stop(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) onAbort();
  else begin();
  return promise.finally(() => {
    cancelDoubt();
    signal.removeEventListener("abort", onAbort);
  });
}
