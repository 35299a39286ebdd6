import type { Usage } from "../api/backend.ts";
import { USAGE_KEPT_MS } from "../api/instance.ts";
import type { EndpointSource } from "../core/endpoint.ts";
import type { Reservation, StateStore } from "../core/store.ts";
import type { Clock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import type { Logger } from "../lib/logger.ts";
import type { RouterMetrics } from "./metrics.ts";
import type { Upstreams } from "./upstream.ts";

/** How often the store is asked for them, in milliseconds. */
const SWEEP_MS = 1_000;

export interface ReaperDeps {
  store: StateStore;
  source: EndpointSource;
  upstreams: Upstreams;
  clock: Clock;
  log: Logger;
  metrics: RouterMetrics;
}

/** What a reservation costs when nobody can prove less. */
export function wholeReservation(tokens: number): Usage {
  return { promptTokens: tokens, completionTokens: 0, cachedTokens: 0 };
}

/**
 * Settles what a router that is gone left open (this one before a restart, or one beside it): each reservation by the count of the instance
 * that ran it. It counts as spent until then. The instance never saw it: nothing was spent. The instance is another process than the one
 * that may have seen it, or has had time to forget: all of it is. The returned function stops.
 */
export async function reapAbandonedReservations(deps: ReaperDeps): Promise<() => void> {
  const { store, clock, log } = deps;
  const known = new Set<string>();
  let stopped = false;
  let cancel = () => {};
  const sweep = async (open: Reservation[]) => {
    const fresh = open.filter((r) => !known.has(r.requestId));
    if (fresh.length > 0)
      log.info("asking the instances about reservations that were left open", { count: fresh.length });
    known.clear();
    for (const reservation of open) {
      if (stopped) return;
      if (!(await reap(reservation, deps))) known.add(reservation.requestId);
    }
  };
  const later = () => {
    if (stopped) return;
    cancel = clock.after(SWEEP_MS, () => {
      // While the store is away, nobody can settle anything.
      void store
        .abandonedReservations()
        .then(sweep, () => {})
        .finally(later);
    });
  };
  void sweep(await store.abandonedReservations()).finally(later);
  return () => {
    stopped = true;
    cancel();
  };
}

/** False: ask again later. */
async function reap(reservation: Reservation, deps: ReaperDeps): Promise<boolean> {
  const { store, source, upstreams, clock, log, metrics } = deps;
  const { requestId, instance, tokens, at } = reservation;
  const endpoint = source.list().find((e) => e.id === instance && e.state === "Ready");
  try {
    if (endpoint) {
      const record = await upstreams.record(endpoint, requestId);
      if ("usage" in record) await store.settle(requestId, record.usage);
      else if (clock.wall() - record.unknownSinceMs < at) await store.settle(requestId, null);
      else await chargeAll();
      return true;
    }
    if (clock.wall() - at < USAGE_KEPT_MS) return false;
    await chargeAll();
    return true;
  } catch (error) {
    log.debug("a reservation is still open", { request: requestId, err: messageOf(error) });
    return false;
  }

  async function chargeAll(): Promise<void> {
    metrics.unproved.inc(1);
    log.warn("nobody can say what a request of a router that is gone cost; its whole reservation is charged", {
      request: requestId,
      tokens,
    });
    await store.settle(requestId, wholeReservation(tokens));
  }
}
