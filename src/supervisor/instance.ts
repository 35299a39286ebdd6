import type { InstanceMessage, InstanceState } from "../api/instance.ts";
import type { Endpoint } from "../core/endpoint.ts";
import type { Clock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import type { Logger } from "../lib/logger.ts";
import { restartDelayMs, STEADY_MS } from "./backoff.ts";
import { explainEnd, type ProcessEnd } from "./failure.ts";
import { type Probe, watchHealth } from "./health.ts";
import type { LoadGate } from "./load-gate.ts";
import type { Launch, RunningProcess } from "./process.ts";
import type { ProcessSpec } from "./spec.ts";

export interface InstanceDeps {
  clock: Clock;
  random: () => number;
  log: Logger;
  launch: Launch;
  probe: Probe;
  gate: LoadGate;
  /** Names one start of one process. */
  makeUid: () => string;
  onChange: () => void;
}

/** After SIGTERM, which an instance obeys at once, before SIGKILL. */
const KILL_AFTER_MS = 5000;
/** A process that has not opened its port by then never will. */
const LISTEN_WITHIN_MS = 120_000;

/**
 * Keeps one instance id running. States, as others see them:
 * Pending (waits for its turn to load) -> Loading -> WarmingUp -> Ready;
 * any of these -> Failed, when its process ends (waits, then Pending again);
 * any -> Draining, when it is stopped or replaced (then gone, or Pending with the new specification).
 */
export class Instance {
  readonly id: string;
  readonly #deps: InstanceDeps;
  #spec: ProcessSpec;
  #process: RunningProcess | undefined;
  #endpoint: Endpoint;
  #running = 0;
  /** In a row, without a steady time between them. */
  #failures = 0;
  /** What happens when the process is gone. */
  #then: "restart" | "replace" | "stop" = "restart";
  #stopped = false;
  #leaveGate: () => void = () => {};
  /** Everything that waits on behalf of the current process or its restart; cleared when that is over. */
  readonly #pending = new Set<() => void>();
  #killAt: number | undefined;

  constructor(spec: ProcessSpec, deps: InstanceDeps) {
    this.id = spec.id;
    this.#spec = spec;
    this.#deps = deps;
    const { id, variant, revision } = spec;
    this.#endpoint = { uid: "", id, variant, revision, url: "", state: "Pending", restarts: 0 };
  }

  get spec(): ProcessSpec {
    return this.#spec;
  }
  get endpoint(): Endpoint {
    return this.#endpoint;
  }
  /** No process, and none will come. */
  get stopped(): boolean {
    return this.#stopped;
  }
  get stopping(): boolean {
    return this.#then === "stop";
  }
  get started(): boolean {
    return this.#process !== undefined;
  }
  get pid(): number | undefined {
    return this.#process?.pid;
  }
  /** Computing now: it has a request, or it loads. */
  get working(): boolean {
    return this.#process !== undefined && (this.#endpoint.state !== "Ready" || this.#running > 0);
  }

  start(): void {
    this.#endpoint = {
      uid: this.#deps.makeUid(),
      id: this.id,
      variant: this.#spec.variant,
      revision: this.#spec.revision,
      url: "",
      state: "Pending",
      restarts: this.#endpoint.restarts,
      ...(this.#endpoint.lastFailure && { lastFailure: this.#endpoint.lastFailure }),
    };
    this.#deps.onChange();
    this.#leaveGate = this.#deps.gate.ask(() => this.#launch());
  }

  /** What the next start uses. A running process keeps what it has. */
  retarget(spec: ProcessSpec): void {
    this.#spec = spec;
  }

  /** Drains the process, if there is one, and starts it again with `spec`. A failure series ends here. */
  replace(spec: ProcessSpec): void {
    const graceMs = this.#spec.drainSeconds * 1000;
    this.#spec = spec;
    if (this.#then !== "restart") return;
    this.#then = "replace";
    this.#drain(graceMs);
  }

  /** Drains the process within `graceMs` and keeps it gone. Called again with less, it hurries up. */
  stop(graceMs: number): void {
    this.#then = "stop";
    this.#drain(graceMs);
  }

  setThreads(count: number): void {
    this.#process?.send({ type: "threads", count });
  }

  #launch(): void {
    if (this.#stopped) return;
    const process: { current?: RunningProcess } = {};
    const mine = () => process.current !== undefined && this.#process === process.current;
    this.#set({ state: "Loading" }, false);
    try {
      process.current = this.#deps.launch(this.#spec, {
        onMessage: (message) => mine() && this.#hear(message),
        onLine: (line) => this.#deps.log.debug("instance wrote", { instance: this.id, line }),
        onEnd: (end) => mine() && this.#ended(end),
      });
    } catch (error) {
      this.#ended({ code: null, signal: null, outOfMemory: false, stderr: [], spawnError: messageOf(error) });
      return;
    }
    this.#process = process.current;
    const pid = this.#process.pid;
    this.#later(LISTEN_WITHIN_MS, () => {
      if (this.#endpoint.url === "") this.#unresponsive("did not open its port within 120 s");
    });
    this.#set(pid === undefined ? {} : { pid });
  }

  #hear(message: InstanceMessage): void {
    switch (message.type) {
      case "listening":
        this.#hearListening(`http://127.0.0.1:${message.port}`);
        break;
      case "state":
        this.#hearState(message.state, message.fraction);
        break;
      case "ready":
        this.#hearReady(message);
        break;
      case "running":
        this.#running = message.count;
        this.#deps.onChange();
        break;
      case "failed":
        // The process ends by itself now; if it cannot, it is ended.
        this.#later(KILL_AFTER_MS, () => this.#process?.kill("SIGKILL"));
        break;
    }
  }

  #hearListening(url: string): void {
    const dead = () => this.#unresponsive("did not answer three health probes in a row");
    if (this.#then === "restart") this.#pending.add(watchHealth(url, this.#deps, dead));
    this.#set({ url });
  }

  #hearReady(message: Extract<InstanceMessage, { type: "ready" }>): void {
    if (this.#then !== "restart") return;
    this.#leaveGate();
    this.#later(STEADY_MS, () => {
      this.#failures = 0;
    });
    const { device, warmupSeconds, tokensPerSecond, warning } = message;
    this.#set({
      state: "Ready",
      device,
      warmupSeconds,
      tokensPerSecond,
      ...(warning !== undefined && { message: warning }),
    });
  }

  /** Ready is told by `ready` alone, and a draining instance stays Draining whatever it still reports. */
  #hearState(state: InstanceState, fraction: number | undefined): void {
    if (this.#then !== "restart" || (state !== "Loading" && state !== "WarmingUp" && state !== "Draining")) return;
    this.#set({ state, ...(fraction !== undefined && { progress: fraction }) });
  }

  #unresponsive(message: string): void {
    this.#process?.kill("SIGKILL", { reason: "Unresponsive", message });
  }

  #drain(graceMs: number): void {
    if (!this.#process) {
      this.#gone();
      return;
    }
    const { clock } = this.#deps;
    const killAt = clock.now() + graceMs;
    if (this.#killAt !== undefined && this.#killAt <= killAt) return;
    this.#killAt = killAt;
    // From here on the grace is the only limit: a draining process may have closed its port.
    this.#clear();
    this.#process.send({ type: "drain", deadlineMs: graceMs });
    this.#later(graceMs, () => {
      this.#process?.kill("SIGTERM");
      this.#later(Math.min(KILL_AFTER_MS, graceMs), () => this.#process?.kill("SIGKILL"));
    });
    this.#set({ state: "Draining" });
  }

  #ended(end: ProcessEnd): void {
    this.#process = undefined;
    this.#running = 0;
    if (this.#then !== "restart") {
      this.#gone();
      return;
    }
    this.#clear();
    const failure = explainEnd(end);
    this.#failures += 1;
    const delayMs = restartDelayMs(this.#failures, failure, this.#deps.random);
    const { reason, message } = failure;
    this.#deps.log.warn("instance failed", { instance: this.id, reason, message, restartInMs: delayMs });
    const { uid, id, variant, revision, restarts } = this.#endpoint;
    this.#endpoint = {
      uid,
      id,
      variant,
      ...(revision !== undefined && { revision }),
      url: "",
      state: "Failed",
      restarts,
      message,
      lastFailure: failure,
      restartAt: this.#deps.clock.now() + delayMs,
    };
    this.#later(delayMs, () => {
      this.#clear();
      this.#endpoint = { ...this.#endpoint, restarts: restarts + 1 };
      this.start();
    });
    this.#deps.onChange();
  }

  /** There is no process, and the last one is not missed. */
  #gone(): void {
    this.#clear();
    this.#killAt = undefined;
    if (this.#then === "replace") {
      this.#then = "restart";
      this.#failures = 0;
      this.#endpoint = { ...this.#endpoint, restarts: 0 };
      delete this.#endpoint.lastFailure;
      this.start();
      return;
    }
    this.#stopped = true;
    this.#deps.onChange();
  }

  #clear(): void {
    for (const cancel of this.#pending) cancel();
    this.#pending.clear();
    this.#leaveGate();
  }

  #later(ms: number, run: () => void): void {
    const cancel = this.#deps.clock.after(ms, () => {
      this.#pending.delete(cancel);
      run();
    });
    this.#pending.add(cancel);
  }

  #set(change: Partial<Endpoint>, tell = true): void {
    const { message: _old, progress: _was, ...rest } = this.#endpoint;
    this.#endpoint = { ...rest, ...change };
    if (tell) this.#deps.onChange();
  }
}
