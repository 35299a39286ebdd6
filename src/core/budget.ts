import type { Usage } from "../api/backend.ts";

/**
 * Tokens that count against one limit. `spent` was used, `reserved` is the worst case of what runs. A bucket with windows holds its
 * current one only: windows are aligned to the Unix epoch, and since `window` never goes back, a wall clock that is set back opens none
 * a second time.
 */
export interface Bucket {
  /** 0: one window for ever. */
  readonly windowSeconds: number;
  /** Index of the current window since the epoch. */
  window: number;
  spent: number;
  reserved: number;
}

/** One limit that applies to a request; 0 counts only. */
export interface Limit<B extends Bucket = Bucket> {
  bucket: B;
  limit: number;
}

/** What a reservation holds of a bucket: the window it was admitted in, to which all that it uses is charged. */
export interface Charge<B extends Bucket = Bucket> {
  bucket: B;
  window: number;
}

export interface Ask {
  /** Tokens to reserve. */
  worstCase: number;
  /** Least that is worth reserving, with `clamp`. */
  minimum: number;
  /** Take what is left instead of nothing. */
  clamp: boolean;
}

export function makeBucket(windowSeconds: number): Bucket {
  return { windowSeconds, window: 0, spent: 0, reserved: 0 };
}

/** Opens the window that `wallMs` (Unix milliseconds) is in, unless the bucket has seen a later one. */
export function openWindow(bucket: Bucket, wallMs: number): void {
  if (bucket.windowSeconds > 0) enter(bucket, Math.floor(wallMs / 1000 / bucket.windowSeconds));
}

function enter(bucket: Bucket, window: number): void {
  if (window <= bucket.window) return;
  bucket.window = window;
  bucket.spent = 0;
  bucket.reserved = 0;
}

/** Tokens that the limit leaves; Infinity without one. */
export function leftOf({ bucket, limit }: Limit): number {
  return limit === 0 ? Number.POSITIVE_INFINITY : limit - bucket.spent - bucket.reserved;
}

/**
 * Reserves in every bucket or in none. What does not fit is denied with the limit that leaves least. Spent plus reserved never passes a
 * limit by this. `ask` and limits are whole numbers; anything else is denied as well.
 */
export function reserve<L extends Limit>(
  limits: readonly L[],
  { worstCase, minimum, clamp }: Ask,
  wallMs: number,
): { ok: true; tokens: number } | { ok: false; limit: L } {
  let tightest: L | undefined;
  let left = Number.POSITIVE_INFINITY;
  for (const limit of limits) {
    openWindow(limit.bucket, wallMs);
    const here = leftOf(limit);
    if (here >= left) continue;
    left = here;
    tightest = limit;
  }
  const least = clamp ? Math.min(minimum, worstCase) : worstCase;
  if (tightest && !(left >= least)) return { ok: false, limit: tightest };
  const tokens = Math.min(worstCase, left);
  for (const { bucket } of limits) bucket.reserved += tokens;
  return { ok: true, tokens };
}

/** The hold on each bucket that `reserve` has just reserved in. */
export function chargesOf<B extends Bucket>(limits: readonly Limit<B>[]): Charge<B>[] {
  return limits.map(({ bucket }) => ({ bucket, window: bucket.window }));
}

/** Takes up a reservation again that was made before a restart; in any order. Its window was open then, so it is not over before. */
export function restore(charges: readonly Charge[], tokens: number): void {
  for (const { bucket, window } of charges) {
    enter(bucket, window);
    if (bucket.window === window) bucket.reserved += tokens;
  }
}

/** Turns a reservation of `tokens` into `used` spent ones; once per reservation. What was reserved in a window that is over counts there. */
export function settle(charges: readonly Charge[], tokens: number, used: number): void {
  for (const { bucket, window } of charges) {
    if (bucket.window !== window) continue;
    bucket.reserved -= tokens;
    bucket.spent += used;
  }
}

/**
 * What a settlement charges. null (never reached an instance) is nothing. More than was reserved is charged in full, because it was used,
 * and `overrun` says that an instance broke its hard limit. A count that is no count charges the reservation.
 */
export function chargeOf(usage: Usage | null, reserved: number): { used: number; overrun: boolean } {
  if (usage === null) return { used: 0, overrun: false };
  const { promptTokens, completionTokens } = usage;
  const used = promptTokens + completionTokens;
  if (!(Number.isSafeInteger(used) && promptTokens >= 0 && completionTokens >= 0))
    return { used: reserved, overrun: true };
  return { used, overrun: used > reserved };
}

/** Seconds until the next window opens; undefined without windows. */
export function resetSeconds({ windowSeconds, window }: Bucket, wallMs: number): number | undefined {
  return windowSeconds === 0 ? undefined : (window + 1) * windowSeconds - wallMs / 1000;
}
