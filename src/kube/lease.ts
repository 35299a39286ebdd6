import type { Clock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import type { Logger } from "../lib/logger.ts";
import { sleep } from "../lib/sleep.ts";
import type { Client } from "./client.ts";
import { withDeadline } from "./deadline.ts";
import { ConnectionError, isConflict, isNotFound } from "./errors.ts";
import type { KubeMetrics } from "./metrics.ts";
import { type KubeObject, microTime } from "./object.ts";
import { RESOURCES } from "./resource.ts";

/** `coordination.k8s.io/v1` Lease. */
export interface Lease extends KubeObject {
  spec?: {
    /** Empty when it was given up. */
    holderIdentity?: string;
    leaseDurationSeconds?: number;
    acquireTime?: string;
    renewTime?: string;
    leaseTransitions?: number;
  };
}

export interface LeaseOptions {
  client: Pick<Client, "find" | "create" | "update">;
  namespace: string;
  name: string;
  /** Of this process and no other, ever: a host name and a random part. */
  identity: string;
  clock: Clock;
  /** 0 to 1 */
  random: () => number;
  log: Logger;
  metrics?: KubeMetrics | undefined;
  /** How long a lease holds without renewal, as others see it. Whole seconds. */
  leaseMs?: number;
  /** How long the holder believes in it without renewal: less, so that it stops before another begins. */
  renewDeadlineMs?: number;
  retryMs?: number;
}

const GIVEN_UP = "given up";

type Settled = Required<Omit<LeaseOptions, "metrics">> & Pick<LeaseOptions, "metrics">;

/** This process leads no longer, or cannot know it. */
export class NotLeaderError extends Error {
  override readonly name = "NotLeaderError";
}

/**
 * Waits until this process holds the lease. Whether another's has run out is judged by how long this process has seen it unchanged, never by
 * the times in it: those are of a clock of another machine.
 */
export async function acquireLease(options: LeaseOptions, signal: AbortSignal): Promise<Leadership> {
  const settled: Settled = { leaseMs: 15_000, renewDeadlineMs: 10_000, retryMs: 2_000, ...options };
  if (!(settled.leaseMs > settled.renewDeadlineMs && settled.renewDeadlineMs > settled.retryMs))
    throw new RangeError("a lease has to be longer than its renew deadline, and that longer than its retry period");
  const { client, clock, random, log, namespace, name, identity } = settled;
  let seen: { version: string | undefined; at: number } | undefined;
  for (;;) {
    signal.throwIfAborted();
    try {
      const leadership = await attempt(settled, signal, async (signal) => {
        const lease = await client.find<Lease>(RESOURCES.leases, { namespace, name }, signal);
        const version = lease?.metadata.resourceVersion;
        if (seen?.version !== version) seen = { version, at: clock.now() };
        if (lease && !isFree(lease, identity, clock.now() - (seen?.at ?? 0))) return undefined;
        const askedAt = { now: clock.now(), wall: clock.wall() };
        return new Leadership(settled, await take(settled, lease, signal), askedAt);
      });
      if (leadership) return leadership;
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      // Another was faster, or the server is away.
      if (!isConflict(error)) log.warn("cannot get the lease, trying again", { lease: name, error: messageOf(error) });
    }
    await sleep(clock, settled.retryMs * (1 + random()), signal);
  }
}

/** Half of the renew deadline: one connection that died unnoticed must not cost the lease. */
function attempt<T>(
  settled: Settled,
  signal: AbortSignal | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const late = () => new ConnectionError(`lease ${settled.name}`, new Error("no answer in time"));
  return withDeadline(settled.clock, settled.renewDeadlineMs / 2, late, signal, work);
}

function isFree({ spec }: Lease, identity: string, unchangedMs: number): boolean {
  const holder = spec?.holderIdentity ?? "";
  return holder === "" || holder === identity || unchangedMs > (spec?.leaseDurationSeconds ?? 0) * 1000;
}

async function take(
  { client, clock, namespace, name, identity, leaseMs }: Settled,
  lease: Lease | undefined,
  signal: AbortSignal,
): Promise<Lease> {
  const now = microTime(clock.wall());
  const mine = { holderIdentity: identity, leaseDurationSeconds: leaseMs / 1000, acquireTime: now, renewTime: now };
  if (!lease) {
    const spec = { ...mine, leaseTransitions: 0 };
    const metadata = { namespace, name };
    return client.create<Lease>({ apiVersion: "coordination.k8s.io/v1", kind: "Lease", metadata, spec }, { signal });
  }
  const leaseTransitions = (lease.spec?.leaseTransitions ?? 0) + 1;
  return client.update<Lease>({ ...lease, spec: { ...lease.spec, ...mine, leaseTransitions } }, { signal });
}

/** A lease that this process holds, and renews until it is lost or closed. */
export class Leadership implements AsyncDisposable {
  readonly #options: Settled;
  readonly #end = new AbortController();
  readonly #keeping: Promise<void>;
  #lease: Lease;
  /** When the newest renewal that succeeded was asked for. */
  #renewedAt: { now: number; wall: number };
  #renewing: Promise<void> | undefined;
  #cancelDeadline = () => {};

  /** @param askedAt before the request that got it: the lease may run from then on. */
  constructor(options: Settled, lease: Lease, askedAt: { now: number; wall: number }) {
    this.#options = options;
    this.#lease = lease;
    this.#renewedAt = askedAt;
    options.metrics?.leader(options.name, true);
    options.log.info("leading", { lease: options.name, identity: options.identity });
    this.#arm();
    this.#keeping = this.#keep();
  }

  /** Fires once, when the lease is lost or given up, with a NotLeaderError: stop writing. */
  get signal(): AbortSignal {
    return this.#end.signal;
  }

  /**
   * Whether this process may act without asking. Both clocks have to say so: the monotonic one stands still while a machine sleeps, the wall clock
   * can be set.
   */
  isLeader(): boolean {
    const { clock, renewDeadlineMs } = this.#options;
    const { now, wall } = this.#renewedAt;
    return !this.#end.signal.aborted && clock.now() - now < renewDeadlineMs && clock.wall() - wall < renewDeadlineMs;
  }

  /** Before each write: resolves at once while the lease is fresh, else when a renewal has succeeded; rejects with NotLeaderError. */
  async ensure(): Promise<void> {
    if (this.isLeader()) return;
    this.#end.signal.throwIfAborted();
    try {
      await this.#renew();
    } catch (error) {
      this.#end.signal.throwIfAborted();
      throw new NotLeaderError(`cannot confirm the lease ${this.#options.name}`, { cause: error });
    }
    this.#end.signal.throwIfAborted();
  }

  /** Gives the lease up, so that another can have it at once. */
  async close(): Promise<void> {
    if (!this.#end.signal.aborted) {
      const { client, clock } = this.#options;
      await this.#renewing?.catch(() => {});
      if (!this.#end.signal.aborted) {
        this.#lose(GIVEN_UP);
        const free = {
          ...this.#lease.spec,
          holderIdentity: "",
          leaseDurationSeconds: 1,
          renewTime: microTime(clock.wall()),
        };
        // If it fails, the lease runs out by itself.
        const release = (signal: AbortSignal) => client.update<Lease>({ ...this.#lease, spec: free }, { signal });
        await attempt(this.#options, undefined, release).catch(() => {});
      }
    }
    await this.#keeping;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #keep(): Promise<void> {
    const { clock, log, name, retryMs } = this.#options;
    for (;;) {
      try {
        await sleep(clock, retryMs, this.#end.signal);
      } catch {
        return;
      }
      await this.#renew().catch((error: unknown) => {
        if (!this.#end.signal.aborted) log.warn("cannot renew the lease", { lease: name, error: messageOf(error) });
      });
    }
  }

  /** One renewal at a time, whoever asks. */
  #renew(): Promise<void> {
    this.#renewing ??= this.#renewOnce().finally(() => {
      this.#renewing = undefined;
    });
    return this.#renewing;
  }

  async #renewOnce(): Promise<void> {
    const { signal } = this.#end;
    const { clock } = this.#options;
    const askedAt = { now: clock.now(), wall: clock.wall() };
    await attempt(this.#options, signal, async (signal) => {
      try {
        await this.#update(askedAt.wall, signal);
      } catch (error) {
        if (!isConflict(error) && !isNotFound(error)) throw error;
        await this.#reread(signal);
        await this.#update(askedAt.wall, signal);
      }
    });
    // It may have been lost while the answer was under way.
    signal.throwIfAborted();
    this.#renewedAt = askedAt;
    this.#arm();
  }

  /** The resourceVersion fences: whoever took the lease since then has changed it, and this is refused. */
  async #update(wall: number, signal: AbortSignal): Promise<void> {
    const spec = { ...this.#lease.spec, renewTime: microTime(wall) };
    this.#lease = await this.#options.client.update<Lease>({ ...this.#lease, spec }, { signal });
  }

  /** After a conflict: it may be ours still, changed by a renewal whose answer was lost or by someone's annotation. */
  async #reread(signal: AbortSignal): Promise<void> {
    const { client, namespace, name, identity } = this.#options;
    const found = await client.find<Lease>(RESOURCES.leases, { namespace, name }, signal);
    const holder = found?.spec?.holderIdentity;
    if (found === undefined || holder !== identity)
      this.#lose(found ? `${holder || "nobody"} holds the lease` : "the lease was deleted");
    signal.throwIfAborted();
    if (found) this.#lease = found;
  }

  #arm(): void {
    const { clock, renewDeadlineMs } = this.#options;
    this.#cancelDeadline();
    const rest = this.#renewedAt.now + renewDeadlineMs - clock.now();
    this.#cancelDeadline = clock.after(rest, () => this.#lose(`not renewed for ${renewDeadlineMs / 1000} s`));
  }

  #lose(why: string): void {
    if (this.#end.signal.aborted) return;
    this.#cancelDeadline();
    this.#options.metrics?.leader(this.#options.name, false);
    const { log, name } = this.#options;
    if (why === GIVEN_UP) log.info("gave the lease up", { lease: name });
    else log.warn("no longer leading", { lease: name, why });
    this.#end.abort(new NotLeaderError(`this process is no longer the leader: ${why}`));
  }
}
