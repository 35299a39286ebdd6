import { randomUUID } from "node:crypto";
import type { Endpoint, EndpointSource } from "../core/endpoint.ts";
import type { Clock } from "../lib/clock.ts";
import type { OwnLoad } from "../lib/cpus.ts";
import type { Logger } from "../lib/logger.ts";
import { httpProbe, type Probe } from "./health.ts";
import { Instance, type InstanceDeps } from "./instance.ts";
import { LoadGate } from "./load-gate.ts";
import type { Launch } from "./process.ts";
import type { ProcessSpec } from "./spec.ts";
import { ThreadLender } from "./thread-lender.ts";
import { divideThreads } from "./threads.ts";

export interface SupervisorOptions {
  clock: Clock;
  /** 0 to 1, as Math.random. */
  random: () => number;
  log: Logger;
  /** CPUs the instances may use together. */
  cpus: number;
  /** CPUs of the machine that were busy for others than these processes, on average, since it was asked last. */
  otherCpus: (own: OwnLoad) => number;
  launch: Launch;
  /** Default: HTTP. */
  probe?: Probe;
}

/**
 * Makes the processes that run equal to those that are wanted, and keeps them so. Level-triggered: every change, wanted or observed, leads
 * to the same look at the whole. What is missing starts, what is unwanted drains and ends, what has another revision is replaced (one at a
 * time per variant, the next only when all current ones are Ready), and what is equal is left alone.
 */
export class Supervisor implements EndpointSource, AsyncDisposable {
  readonly #cpus: number;
  readonly #instances = new Map<string, Instance>();
  /** By id: the start of the process that it comes after, when it was started. */
  readonly #starts = new Map<string, string | undefined>();
  readonly #listeners = new Set<() => void>();
  readonly #deps: InstanceDeps;
  readonly #lender: ThreadLender;
  #wanted: ReadonlyMap<string, ProcessSpec> = new Map();
  #reconciling = false;
  #again = false;
  #closed: Promise<void> | undefined;
  #whenEmpty: () => void = () => {};

  constructor({ clock, random, log, cpus, otherCpus, launch, probe = httpProbe }: SupervisorOptions) {
    this.#cpus = cpus;
    this.#lender = new ThreadLender(clock, cpus, otherCpus);
    this.#deps = {
      clock,
      random,
      log,
      probe,
      launch: (spec, events) => {
        this.#starts.set(spec.id, this.#startOf(spec));
        return launch(this.#withThreads(spec), events);
      },
      gate: new LoadGate(cpus),
      makeUid: randomUUID,
      onChange: () => this.#reconcile(),
    };
  }

  /** The whole wanted set, in the order in which it is to be shown. Returns at once; `onChange` tells what becomes of it. */
  apply(wanted: readonly ProcessSpec[]): void {
    if (this.#closed !== undefined) return;
    this.#wanted = new Map(wanted.map((spec) => [spec.id, spec]));
    this.#reconcile();
  }

  /** Wanted ones in their order, then those that still drain. */
  list(): readonly Endpoint[] {
    const ids = new Set([...this.#wanted.keys(), ...this.#instances.keys()]);
    return [...ids].flatMap((id) => {
      const instance = this.#instances.get(id);
      return instance ? this.#shown(instance) : this.#waiting(id);
    });
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Drains all and ends them within `graceMs`. Resolves when no process is left. May be called again with a shorter grace, which
   * then counts; 0 kills.
   */
  close(graceMs = 0): Promise<void> {
    this.#wanted = new Map();
    this.#closed ??= new Promise((resolve) => {
      this.#whenEmpty = resolve;
    });
    for (const instance of waitingFirst([...this.#instances.values()])) instance.stop(graceMs);
    this.#reconcile();
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Instances report changes while they are being changed: those fold into one more look, never into a nested one. */
  #reconcile(): void {
    this.#again = true;
    if (this.#reconciling) return;
    this.#reconciling = true;
    while (this.#again) {
      this.#again = false;
      this.#look();
    }
    this.#reconciling = false;
    this.#lender.update([...this.#instances.values()], (instance) => this.#mostThreads(instance.spec));
    for (const listener of [...this.#listeners]) listener();
    if (this.#instances.size === 0) this.#whenEmpty();
  }

  #look(): void {
    for (const instance of waitingFirst([...this.#instances.values()])) {
      if (instance.stopped) {
        this.#instances.delete(instance.id);
        this.#starts.delete(instance.id);
      } else if (!this.#wanted.has(instance.id) && !instance.stopping) instance.stop(instance.spec.drainSeconds * 1000);
    }
    for (const spec of this.#wanted.values()) {
      if (this.#instances.has(spec.id) || !this.#mayStart(spec)) continue;
      const instance = new Instance(spec, this.#deps);
      this.#instances.set(spec.id, instance);
      this.#starts.set(spec.id, this.#startOf(spec));
      instance.start();
    }
    this.#rollOut();
  }

  #rollOut(): void {
    /** Variants in which something is on its way to Ready, or cannot get there. */
    const busy = new Set<string>();
    const outdated: Instance[] = [];
    for (const spec of this.#wanted.values()) {
      const instance = this.#instances.get(spec.id);
      if (!instance || instance.stopping) busy.add(spec.variant);
      else if (instance.spec.revision !== spec.revision || this.#isBehind(instance)) outdated.push(instance);
      else {
        instance.retarget(spec);
        if (!isReady(instance)) busy.add(spec.variant);
      }
    }
    // One that serves nobody goes now: nothing is lost, and perhaps the new revision is its cure.
    const [ready, idle] = [outdated.filter(isReady), outdated.filter((instance) => !isReady(instance))];
    for (const instance of [...waitingFirst(idle), ...ready]) {
      const spec = this.#wanted.get(instance.id);
      if (!spec || (busy.has(spec.variant) && ready.includes(instance))) continue;
      busy.add(spec.variant);
      this.#starts.set(instance.id, this.#startOf(spec));
      instance.replace(spec);
    }
  }

  #mayStart({ after }: ProcessSpec): boolean {
    const other = after === undefined ? undefined : this.#instances.get(after);
    return after === undefined || (other !== undefined && isReady(other));
  }

  /** Which start of the process that it comes after: none while that is not Ready. */
  #startOf({ after }: ProcessSpec): string | undefined {
    const other = after === undefined ? undefined : this.#instances.get(after);
    return other && isReady(other) ? other.endpoint.uid : undefined;
  }

  /** The process that it comes after has been started again since. While that is on its way this one stays as it is. */
  #isBehind({ id, spec }: Instance): boolean {
    const start = this.#startOf(spec);
    return start !== undefined && start !== this.#starts.get(id);
  }

  #shown(instance: Instance): Endpoint {
    const { id, spec, endpoint } = instance;
    if (!isReady(instance) || spec.after === undefined || this.#startOf(spec) === this.#starts.get(id)) return endpoint;
    return {
      ...endpoint,
      message: `${spec.after} has ended: this one is replaced in its turn when that is Ready again`,
    };
  }

  /** Wanted, and its time has not come. */
  #waiting(id: string): Endpoint | [] {
    const spec = this.#wanted.get(id);
    if (spec?.after === undefined) return [];
    const message = `waits for ${spec.after}`;
    return { uid: "", id, variant: spec.variant, url: "", state: "Pending", restarts: 0, message };
  }

  /** What a process computes with until the first division that knows it. */
  #withThreads(spec: ProcessSpec): ProcessSpec {
    const all = [...this.#wanted.values()];
    const users = all.map((wanted) => ({ id: wanted.id, working: true, most: this.#mostThreads(wanted) }));
    const threads = divideThreads(this.#cpus, users).get(spec.id) ?? 1;
    this.#lender.started(spec.id, threads);
    return { ...spec, config: { ...spec.config, threads } };
  }

  #mostThreads(spec: ProcessSpec): number {
    return Math.max(1, Math.min(Math.floor(spec.cpuLimit ?? Number.POSITIVE_INFINITY), this.#cpus));
  }
}

const isReady = (instance: Instance): boolean => instance.endpoint.state === "Ready";

/** Those that wait for their turn to load come first: else a place given back would start them in the middle of their end. */
const waitingFirst = (instances: readonly Instance[]): Instance[] =>
  instances.toSorted((a, b) => Number(a.started) - Number(b.started));
