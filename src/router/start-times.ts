import type { Place } from "./place.ts";

type Starting = Pick<Place, "endpoint" | "suspect" | "suspectUntil" | "startsSince" | "startMs">;

/** Remembers how long an instance takes from its start to Ready. Called after each news of it. */
export function noteStart(place: Starting, now: number): void {
  const state = place.endpoint?.state;
  if (state === "Pending" || state === "Loading" || state === "WarmingUp") place.startsSince ??= now;
  else {
    if (state === "Ready" && place.startsSince !== undefined) place.startMs = now - place.startsSince;
    place.startsSince = undefined;
  }
}

/**
 * Milliseconds until an instance that takes no requests takes them again, by what is known: its breaker's next probe (`probeInMs`), its
 * restart, how far it has loaded, how long it took the last time. Undefined where none of that is known.
 */
export function readyInMs(place: Starting, probeInMs: number, now: number): number | undefined {
  const { endpoint, suspect, suspectUntil, startsSince = now, startMs } = place;
  switch (endpoint?.state) {
    case "Ready":
      return Math.max(probeInMs, suspect === endpoint.uid ? suspectUntil - now : 0);
    case "Failed":
      return endpoint.restartAt === undefined ? undefined : Math.max(0, endpoint.restartAt - now) + (startMs ?? 0);
    case "Pending":
    case "Loading":
    case "WarmingUp": {
      const takenMs = now - startsSince;
      const { progress = 0 } = endpoint;
      if (progress > 0 && takenMs > 0) return (takenMs * (1 - progress)) / progress;
      return startMs === undefined ? undefined : Math.max(0, startMs - takenMs);
    }
    default:
      return undefined;
  }
}
