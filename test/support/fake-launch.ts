import type { FailureReason, InstanceMessage, SupervisorMessage } from "../../src/api/instance.ts";
import type { ProcessEnd } from "../../src/supervisor/failure.ts";
import type { Launch, ProcessEvents, RunningProcess } from "../../src/supervisor/process.ts";
import type { ProcessSpec } from "../../src/supervisor/spec.ts";

/** A process that does only what a test tells it, but dies when it is killed. */
export class FakeProcess implements RunningProcess {
  readonly pid: number;
  readonly spec: ProcessSpec;
  readonly received: SupervisorMessage[] = [];
  readonly signals: string[] = [];
  alive = true;
  readonly #events: ProcessEvents;
  #failed: ProcessEnd["failed"];

  constructor(pid: number, spec: ProcessSpec, events: ProcessEvents) {
    this.pid = pid;
    this.spec = spec;
    this.#events = events;
  }

  say(message: InstanceMessage): void {
    if (message.type === "failed") this.#failed = { reason: message.reason, message: message.message };
    this.#events.onMessage(message);
  }

  becomeReady(): void {
    this.say({ type: "listening", port: 10_000 + this.pid, metricsPort: 20_000 + this.pid });
    this.say({ type: "state", state: "WarmingUp" });
    this.say({ type: "ready", device: "fake", modelName: "fake", warmupSeconds: 1, tokensPerSecond: 10 });
  }

  send(message: SupervisorMessage): void {
    this.received.push(message);
  }

  kill(signal: "SIGTERM" | "SIGKILL", why?: { reason: FailureReason; message: string }): void {
    this.signals.push(signal);
    if (signal === "SIGKILL") this.end({ signal, ...(why && { killedFor: why }) });
  }

  end(end: Partial<ProcessEnd> = {}): void {
    if (!this.alive) return;
    this.alive = false;
    const failed = this.#failed && { failed: this.#failed };
    this.#events.onEnd({ code: null, signal: null, outOfMemory: false, stderr: [], ...failed, ...end });
  }

  get threads(): number | undefined {
    const last = this.received.findLast((message) => message.type === "threads");
    return last?.count ?? this.spec.config.threads;
  }
  get drained(): boolean {
    return this.received.some((message) => message.type === "drain");
  }
}

export class FakeLaunch {
  readonly all: FakeProcess[] = [];
  readonly launch: Launch = (spec, events) => {
    const started = new FakeProcess(this.all.length + 1, spec, events);
    this.all.push(started);
    return started;
  };

  get alive(): FakeProcess[] {
    return this.all.filter((one) => one.alive);
  }

  /** The living process of an instance. */
  of(id: string): FakeProcess {
    const found = this.alive.find((one) => one.spec.id === id);
    if (!found) throw new Error(`instance ${id} has no process`);
    return found;
  }
}
