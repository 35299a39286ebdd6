import type { Clock } from "../lib/clock.ts";
import { isGone } from "./errors.ts";

/**
 * A stream that is silent for so long, in milliseconds, is doubted. A server says something on a watch once a minute at least (a bookmark);
 * what a stalled connection withholds is known sooner than that.
 */
const DOUBT_MS = 40_000;

/** Nothing came, neither on the stream nor from a second one. */
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
 * Ends as the last open stream ends; rejects with SilentError when nothing came for 80 s, or with the signal's reason.
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
  const failed = (stream: AbortController, error: unknown) => {
    // A version that is too old for the second is too old for the first: nothing it missed can be had by waiting.
    if (streams.has(stream) && isGone(error)) stop(error);
    else ended(stream, () => reject(error));
  };
  const begin = () => {
    const stream = new AbortController();
    streams.add(stream);
    const speaks = () => {
      cut(new SilentError(), stream);
      inSilence(begin);
    };
    open(speaks, stream.signal).then(
      () => ended(stream, resolve),
      (error: unknown) => failed(stream, error),
    );
    inSilence(streams.size === 1 ? begin : () => stop(new SilentError()));
  };
  const inSilence = (run: () => void) => {
    cancelDoubt();
    cancelDoubt = clock.after(DOUBT_MS, run);
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
