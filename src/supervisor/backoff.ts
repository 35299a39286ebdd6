import type { Failure } from "./failure.ts";

/** A process that was Ready this long starts its next series of failures from the beginning. */
export const STEADY_MS = 60_000;

/** Wait before trying again what only a changed file or resource can cure. */
const SLOW_MS = 60_000;

/**
 * Milliseconds to wait before start number `failures` + 1 (`failures` >= 1, in a row): doubles from 1 to 30 s, times 1 to 2 by
 * `random` (0 to 1), so that instances that died together do not come back together. Always within 1 to 60 s.
 */
export function restartDelayMs(failures: number, failure: Failure, random: () => number): number {
  if (failure.lasting) return SLOW_MS;
  const base = Math.min(30_000, 1000 * 2 ** Math.min(failures - 1, 10));
  return Math.round(base * (1 + random()));
}
