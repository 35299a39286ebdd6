import { get } from "node:http";
import type { Clock } from "../lib/clock.ts";

export const PROBE_INTERVAL_MS = 5000;
export const PROBE_MISSES = 3;

/** Resolves when the instance answered at all; rejects when it did not, or on abort. */
export type Probe = (url: string, signal: AbortSignal) => Promise<void>;

/**
 * Asks every 5 s and calls `onDead` once after the third miss in a row. An answer must come before the next question is due.
 * The returned function ends it.
 */
export function watchHealth(
  url: string,
  { clock, probe }: { clock: Clock; probe: Probe },
  onDead: () => void,
): () => void {
  let misses = 0;
  let current: AbortController | undefined;
  let cancel = clock.after(PROBE_INTERVAL_MS, ask);

  function ask(): void {
    cancel = clock.after(PROBE_INTERVAL_MS, judge);
    const question = new AbortController();
    current = question;
    probe(url, question.signal).then(
      () => {
        if (current !== question) return;
        current = undefined;
        misses = 0;
      },
      () => {},
    );
  }

  function judge(): void {
    if (current) {
      misses += 1;
      current.abort();
      current = undefined;
    }
    if (misses < PROBE_MISSES) ask();
    else onDead();
  }

  return () => {
    cancel();
    current?.abort();
    current = undefined;
  };
}

/** `GET /healthz` on a connection of its own, so that no idle one can mislead. Any answer is a sign of life. */
export const httpProbe: Probe = (url, signal) =>
  new Promise((resolve, reject) => {
    const request = get(`${url}/healthz`, { agent: false, signal }, (response) => {
      response.resume();
      resolve();
    });
    request.on("error", reject);
  });
