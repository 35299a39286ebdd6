import type { Usage } from "../api/backend.ts";
import { USAGE_KEPT_MS } from "../api/instance.ts";
import type { EndpointSource } from "../core/endpoint.ts";
import type { StateStore } from "../core/store.ts";
import type { Clock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import type { Logger } from "../lib/logger.ts";
import type { RouterMetrics } from "./metrics.ts";
import type { Upstreams } from "./upstream.ts";

/** How often what is still open is asked about again, in milliseconds. */
const SWEEP_MS = 1_000;
/** How long the record of a request that was just cut off may take to be final, in seconds: one prefill chunk or token, and some air. */
const RECORD_WAIT_S = 10;

export interface ReaperDeps {
  store: StateStore;
  source: EndpointSource;
  upstreams: Upstreams;
  clock: Clock;
  log: Logger;
  metrics: RouterMetrics;
}

/** A reservation that only its instance can say the cost of. */
export interface Unproved {
  requestId: string;
  instance: string;
  /** The process that it was sent to, or for; undefined: to none. */
  boot?: string;
  /** `since` is by this router's own clock: a process that is older than that is the one that it was sent to. */
  isOurs?: boolean;
  /** The reservation. */
  tokens: number;
  /** On the clock's scale, in milliseconds: not later than the instant when it may have reached the instance. */
  since: number;
  /** `since` is only when this router first saw it: the clock of its admission was set back, and nobody knows its age. */
  isAgeless?: boolean;
  /** The instance had told that it waits for a slot, and not that it begins: when nobody can say more, it cost nothing. */
  waited?: boolean;
  settle: (usage: Usage | null) => Promise<void>;
}

/**
 * Settles by the instances' own count what nobody else can: requests that this router cut off, and what routers that are gone left open (this
 * one before a restart, or one beside it). Until then the whole reservation counts. The instance never saw it: nothing was spent. The
 * instance is another process than the one that may have seen it, or has had time to forget: all of it is.
 */
export class Reaper {
  readonly #deps: ReaperDeps;
  /** Of this router, by request: those that could not be proved at once. */
  readonly #cutOff = new Map<string, Unproved>();
  /** Of routers that are gone, by request, as first seen: a clock that was set back is not right again when enough time has passed. */
  #known = new Map<string, Pick<Unproved, "since" | "isAgeless">>();
  #cancel: () => void = () => {};
  #closed = false;

  constructor(deps: ReaperDeps) {
    this.#deps = deps;
  }

  /** Begins to look for what routers that are gone left open. Rejects when the store cannot be asked. */
  async start(): Promise<void> {
    void this.#sweep(await this.#abandoned()).finally(this.#later);
  }

  /** Asks what a request that was cut off cost; resolves when it is settled, or when that is left to a later try. */
  async prove(one: Unproved): Promise<void> {
    if (!(await this.#isSettled(one, RECORD_WAIT_S))) this.#cutOff.set(one.requestId, one);
  }

  /** What is still open stays open in the store. */
  close(): void {
    this.#closed = true;
    this.#cancel();
  }

  #later = (): void => {
    if (this.#closed) return;
    this.#cancel = this.#deps.clock.after(SWEEP_MS, () => {
      // While the store is away, nobody can settle what others left.
      void this.#abandoned()
        .catch(() => [])
        .then((open) => this.#sweep(open))
        .finally(this.#later);
    });
  };

  async #abandoned(): Promise<Unproved[]> {
    const { store, clock, log } = this.#deps;
    const listedAt = clock.now();
    const listed = await store.abandonedReservations();
    const before = this.#known;
    this.#known = new Map(
      listed.map(({ requestId, ageMs }) => [
        requestId,
        before.get(requestId) ?? { since: listedAt - Math.max(0, ageMs), isAgeless: ageMs < 0 },
      ]),
    );
    const fresh = listed.filter(({ requestId }) => !before.has(requestId));
    if (fresh.length > 0) {
      log.info("asking the instances about reservations that were left open", { count: fresh.length });
    }
    return listed.map(({ requestId, instance, tokens, boot }) => ({
      ...{ requestId, instance, tokens, since: listedAt, ...this.#known.get(requestId) },
      ...(boot !== undefined && { boot }),
      settle: (usage) => store.settle(requestId, usage),
    }));
  }

  /** One after another at each instance, so that one that does not answer holds up its own alone. */
  async #sweep(abandoned: Unproved[]): Promise<void> {
    const open = [...abandoned, ...this.#cutOff.values()];
    await Promise.all([...Map.groupBy(open, ({ instance }) => instance).values()].map((some) => this.#reap(some)));
  }

  async #reap(open: Unproved[]): Promise<void> {
    for (const one of open) {
      if (this.#closed) return;
      if (await this.#isSettled(one, 0)) this.#cutOff.delete(one.requestId);
    }
  }

  /** False: ask again later. */
  async #isSettled(one: Unproved, waitSeconds: number): Promise<boolean> {
    const { source, upstreams, clock, log } = this.#deps;
    const { requestId, instance, boot, isOurs = false, since, isAgeless = false, settle } = one;
    const endpoint = source.list().find(({ id, url }) => id === instance && url !== "");
    try {
      // The store learns the process before anything is sent there.
      if (boot === undefined) {
        await settle(null);
        return true;
      }
      if (endpoint) {
        const record = await upstreams.record(endpoint, requestId, waitSeconds);
        if (record === "running") return false;
        const ageMs = clock.now() - since;
        if ("usage" in record) await settle(record.usage);
        else {
          const isTheSame = boot === record.boot || (isOurs && ageMs < record.unknownSinceMs);
          // The process is at least as old as what it was sent.
          const mostMs = isAgeless ? record.unknownSinceMs : ageMs;
          if (isTheSame && mostMs < USAGE_KEPT_MS) await settle(null);
          else await this.#chargeAll(one);
        }
        return true;
      }
    } catch (error) {
      log.debug("a reservation is still open", { request: requestId, err: messageOf(error) });
    }
    if (clock.now() - since < USAGE_KEPT_MS) return false;
    return this.#chargeAll(one).then(
      () => true,
      () => false,
    );
  }

  async #chargeAll({ requestId, instance, tokens, waited = false, settle }: Unproved): Promise<void> {
    const { metrics, log } = this.#deps;
    if (waited) return settle(null);
    await settle({ promptTokens: tokens, completionTokens: 0, cachedTokens: 0 });
    metrics.unproved.inc(1);
    log.warn("nobody can say what a cut-off request cost; its whole reservation is charged", {
      ...{ request: requestId, instance, tokens },
    });
  }
}
