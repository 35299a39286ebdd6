import type { Clock } from "../lib/clock.ts";

/**
 * After so long without a byte, in milliseconds, a stream gets a second one beside it. Two of these are more than the minute in which a server
 * sends a bookmark, if it has one to send: where nothing of a kind ever changes it has none.
 */
const DOUBT_MS = 40_000;

export interface Doubted {
  clock: Clock;
  /** Runs one stream until it ends, and calls `speaks` before it delivers anything. */
  open: (speaks: () => void, signal: AbortSignal) => Promise<void>;
  /** A younger stream spoke before an older one did: it may have been dead. */
  onSilent: () => void;
}

/**
 * Runs a stream that may stall without ending: behind a proxy that lost its other side, a connection stays open for ever. After each 40 s of
 * silence another one is opened from the same place; whichever speaks first stays and the others are aborted, so that nothing is delivered twice.
 * Of two silent ones the older goes when a third comes. So what a dead connection withholds is known within 40 s, while one that is only quiet
 * lives long enough for the bookmarks that keep it from growing too old.
 *
 * Ends as the last open stream ends, or as soon as a second one fails: the first is then no better. Rejects with the signal's reason.
 */
export function runDoubted({ clock, open, onSilent }: Doubted, signal: AbortSignal): Promise<void> {
  /** From old to young. */
  const streams = new Set<AbortController>();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let cancelDoubt = () => {};

  const drop = (stream: AbortController, reason: unknown) => {
    streams.delete(stream);
    stream.abort(reason);
  };
  const stop = (reason: unknown) => {
    for (const stream of streams) drop(stream, reason);
    reject(reason);
  };
  const speaks = (speaker: AbortController) => {
    const [oldest] = streams;
    if (oldest !== speaker) onSilent();
    for (const stream of streams) if (stream !== speaker) drop(stream, new Error("another watch was faster"));
    doubtInSilence();
  };
  const begin = () => {
    const [oldest] = streams;
    if (oldest && streams.size > 1) drop(oldest, new Error("silent"));
    const stream = new AbortController();
    streams.add(stream);
    open(() => speaks(stream), stream.signal).then(
      () => {
        if (streams.delete(stream) && streams.size === 0) resolve();
      },
      (error: unknown) => {
        if (streams.delete(stream)) stop(error);
      },
    );
    doubtInSilence();
  };
  const doubtInSilence = () => {
    cancelDoubt();
    cancelDoubt = clock.after(DOUBT_MS, begin);
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
