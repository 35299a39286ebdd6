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
/** As many that are not answered in time; the second follows at once, so that one that hangs is found within five seconds. */
const SILENCES = 2;
const PROBE_MS = 2_000;

/** What is known of one address. */
interface Probe {
  failures: number;
  silences: number;
  cancel: () => void;
  ended: boolean;
  running: Promise<void>;
}

/**
 * Endpoints whose addresses are given and whose state is asked from the instances themselves, for a router without a supervisor. Each is
 * asked on its own: one that hangs holds up no news of another.
 */
export class ProbedEndpoints implements EndpointSource, AsyncDisposable {
  readonly #clock: Clock;
  readonly #agent = new Agent({ connect: { timeout: PROBE_MS } });
  readonly #listeners = new Set<() => void>();
  /** By url. */
  readonly #probes = new Map<string, Probe>();
  #endpoints: Endpoint[] = [];
  /** By url. */
  #draining: ReadonlySet<string> = new Set();

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
    const urls = new Set(addresses.map(({ url }) => url));
    for (const [url, probe] of this.#probes) if (!urls.has(url)) this.#end(url, probe);
    for (const url of urls) if (!this.#probes.has(url)) this.#begin(url);
  }

  list(): readonly Endpoint[] {
    return this.#endpoints;
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async close(): Promise<void> {
    const probes = [...this.#probes];
    for (const [url, probe] of probes) this.#end(url, probe);
    await this.#agent.destroy();
    await Promise.all(probes.map(([, { running }]) => running));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #begin(url: string): void {
    const probe: Probe = { failures: 0, silences: 0, cancel: () => {}, ended: false, running: Promise.resolve() };
    this.#probes.set(url, probe);
    const look = () => {
      probe.running = this.#look(url, probe).then(() => {
        const again = probe.silences === 0 || probe.silences >= SILENCES ? PROBE_EVERY_MS : 0;
        if (!probe.ended) probe.cancel = this.#clock.after(again, look);
      });
    };
    look();
  }

  #end(url: string, probe: Probe): void {
    probe.ended = true;
    probe.cancel();
    this.#probes.delete(url);
  }

  async #look(url: string, probe: Probe): Promise<void> {
    const late = new AbortController();
    const cancel = this.#clock.after(PROBE_MS, () => late.abort());
    let answer: Answer | undefined;
    try {
      answer = await this.#ask(url, late.signal);
      probe.failures = 0;
      probe.silences = 0;
    } catch {
      probe.failures++;
      probe.silences = late.signal.aborted ? probe.silences + 1 : 0;
    } finally {
      cancel();
    }
    const i = this.#endpoints.findIndex((endpoint) => endpoint.url === url);
    const before = this.#endpoints[i];
    if (probe.ended || !before) return;
    const isDown = probe.failures >= FAILURES || probe.silences >= SILENCES;
    const after = answer ? this.#answered(before, answer) : isDown ? down(before) : before;
    if (after === before) return;
    this.#endpoints = this.#endpoints.with(i, after);
    this.#changed();
  }

  async #ask(url: string, signal: AbortSignal): Promise<Answer> {
    const health = await request(`${url}/healthz`, { dispatcher: this.#agent, signal });
    const { boot } = (await health.body.json()) as InstanceIdentity;
    const ready = await request(`${url}/readyz`, { dispatcher: this.#agent, signal });
    const said = (await ready.body.json().catch(() => ({}))) as Partial<InstanceReadiness>;
    return { boot, isReady: ready.statusCode === 200, said };
  }

  #answered(endpoint: Endpoint, { boot, isReady, said }: Answer): Endpoint {
    const state = this.#draining.has(endpoint.url) ? "Draining" : isReady ? "Ready" : notReady(said.state);
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
  }

  #changed(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}

/** What a 503 means: only the instance knows whether it loads, warms up or ends. */
function notReady(said: InstanceState | undefined): InstanceState {
  return said === "WarmingUp" || said === "Draining" || said === "Failed" ? said : "Loading";
}

interface Answer {
  boot: string;
  isReady: boolean;
  said: Partial<InstanceReadiness>;
}

function down(endpoint: Endpoint): Endpoint {
  const { state } = endpoint;
  if (state === "Pending" || state === "Draining" || state === "Failed") return endpoint;
  return { ...endpoint, state: "Failed", message: "does not answer" };
}
