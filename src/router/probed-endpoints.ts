import { Agent, request } from "undici";
import type { InstanceIdentity, InstanceReadiness, InstanceState } from "../api/instance.ts";
import type { Endpoint, EndpointSource } from "../core/endpoint.ts";
import type { Clock } from "../lib/clock.ts";

/** Where an instance is said to be. */
export interface Address {
  id: string;
  variant: string;
  url: string;
  /** Pod that holds it. */
  pod?: string;
  /** It is about to end: it takes no new work, whatever it answers. */
  draining?: boolean;
}

const PROBE_EVERY_MS = 1_000;
/** Probes in a row that must fail before an instance that was ready counts as down: a busy machine misses one. */
const FAILURES = 3;
const PROBE_MS = 2_000;

/** Endpoints whose addresses are given and whose state is asked from the instances themselves, for a router without a supervisor. */
export class ProbedEndpoints implements EndpointSource, AsyncDisposable {
  readonly #clock: Clock;
  readonly #agent = new Agent({ connect: { timeout: PROBE_MS }, headersTimeout: PROBE_MS, bodyTimeout: PROBE_MS });
  readonly #listeners = new Set<() => void>();
  readonly #failures = new Map<string, number>();
  #endpoints: Endpoint[] = [];
  /** By url. */
  #draining: ReadonlySet<string> = new Set();
  #cancel: () => void = () => {};
  #probing: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The instances there are from now on; those that stay keep their state until the next probe. */
  set(addresses: readonly Address[]): void {
    this.#draining = new Set(addresses.filter(({ draining }) => draining).map(({ url }) => url));
    this.#endpoints = addresses.map(({ id, variant, url, pod, draining = false }) => {
      const known = this.#endpoints.find((e) => e.id === id && e.url === url);
      const endpoint: Endpoint = known ?? {
        uid: url,
        id,
        variant,
        url,
        state: "Pending",
        restarts: 0,
        ...(pod !== undefined && { pod }),
      };
      return draining && endpoint.state !== "Draining" ? { ...endpoint, state: "Draining" } : endpoint;
    });
    this.#changed();
    this.#cancel();
    this.#probing = this.#probing.then(() => this.#probeAll());
  }

  list(): readonly Endpoint[] {
    return this.#endpoints;
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#cancel();
    await this.#agent.destroy();
    await this.#probing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #probeAll(): Promise<void> {
    if (this.#closed) return;
    const before = this.#endpoints;
    const after = await Promise.all(before.map((endpoint) => this.#probe(endpoint)));
    if (this.#closed) return;
    if (before === this.#endpoints && after.some((endpoint, i) => endpoint !== before[i])) {
      this.#endpoints = after;
      this.#changed();
    }
    this.#cancel();
    this.#cancel = this.#clock.after(PROBE_EVERY_MS, () => {
      this.#probing = this.#probeAll();
    });
  }

  async #probe(endpoint: Endpoint): Promise<Endpoint> {
    try {
      const health = await request(`${endpoint.url}/healthz`, { dispatcher: this.#agent });
      const { boot } = (await health.body.json()) as InstanceIdentity;
      const ready = await request(`${endpoint.url}/readyz`, { dispatcher: this.#agent });
      const said = (await ready.body.json().catch(() => ({}))) as Partial<InstanceReadiness>;
      this.#failures.delete(endpoint.id);
      const draining = this.#draining.has(endpoint.url);
      const state = draining ? "Draining" : ready.statusCode === 200 ? "Ready" : notReady(said.state);
      const { device, tokens_per_second: tokensPerSecond } = said;
      // Its speed is taken along with other news: on its own it would be news every second.
      if (device === endpoint.device && state === endpoint.state && boot === endpoint.uid) return endpoint;
      const restarted = endpoint.state !== "Pending" && boot !== endpoint.uid;
      const { message: _, ...known } = endpoint;
      return {
        ...known,
        uid: boot,
        state,
        restarts: endpoint.restarts + (restarted ? 1 : 0),
        ...(device !== undefined && { device }),
        ...(tokensPerSecond !== undefined && { tokensPerSecond }),
      };
    } catch {
      const failures = (this.#failures.get(endpoint.id) ?? 0) + 1;
      this.#failures.set(endpoint.id, failures);
      if (endpoint.state === "Pending" || endpoint.state === "Draining" || failures < FAILURES) return endpoint;
      return endpoint.state === "Failed" ? endpoint : { ...endpoint, state: "Failed", message: "does not answer" };
    }
  }

  #changed(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}

/** What a 503 means: only the instance knows whether it loads, warms up or ends. */
function notReady(said: InstanceState | undefined): InstanceState {
  return said === "WarmingUp" || said === "Draining" || said === "Failed" ? said : "Loading";
}
