import type { LLMBackend } from "../src/api/backend.ts";
import {
  type FailureReason,
  type InstanceConfig,
  type InstanceMessage,
  StartError,
  type Warmup,
} from "../src/api/instance.ts";
import type { Clock } from "../src/lib/clock.ts";
import { messageOf } from "../src/lib/errors.ts";
import type { Logger } from "../src/lib/logger.ts";
import { sleep } from "../src/lib/sleep.ts";
import type { CreateBackend } from "./factory.ts";
import { TokenCheck } from "./server/auth.ts";
import { MetricsServer } from "./server/metrics-server.ts";
import { InstanceServer } from "./server/server.ts";

export interface InstanceDeps {
  createBackend: CreateBackend;
  /** Makes `model.uri` a path on this machine; `onFraction` is told how far it is. */
  resolveModel: (
    config: InstanceConfig,
    onFraction: (fraction: number) => void,
    signal: AbortSignal,
  ) => Promise<string>;
  clock: Clock;
  log: Logger;
  /** To the supervisor, where there is one. */
  report: (message: InstanceMessage) => void;
}

/**
 * One instance: its servers, its backend, and the way from Pending over Loading and WarmingUp to Ready, and at the end over Draining to nothing.
 * Ports are open from the start, so that probes are answered while a model loads.
 */
export class Instance implements AsyncDisposable {
  readonly #config: InstanceConfig;
  readonly #deps: InstanceDeps;
  readonly #stop = new AbortController();
  readonly #server: InstanceServer;
  readonly #metrics: MetricsServer;
  #backend: LLMBackend | undefined;
  #threads: number | undefined;
  #loading: Promise<void> = Promise.resolve();
  #closing: Promise<void> | undefined;

  private constructor(config: InstanceConfig, deps: InstanceDeps, tokens: TokenCheck) {
    this.#config = config;
    this.#deps = deps;
    let busy = false;
    this.#server = new InstanceServer({
      id: config.id,
      sessions: config.sessions,
      requestTimeoutMs: config.requestTimeoutSeconds * 1000,
      tokens,
      clock: deps.clock,
      log: deps.log,
      onRunning: (count) => {
        if (busy === count > 0) return;
        busy = count > 0;
        deps.report({ type: "running", count });
      },
    });
    this.#metrics = new MetricsServer(this.#server.metrics.metrics);
  }

  /** Resolves once it listens. Rejects with StartError, and has then closed all it had opened. */
  static async listen(config: InstanceConfig, deps: InstanceDeps): Promise<Instance> {
    const instance = new Instance(config, deps, await TokenCheck.load(config.tokenFile));
    try {
      const port = await opened("port", config.port, instance.#server.listen(config.host, config.port));
      const metricsPort = await opened(
        "metricsPort",
        config.metricsPort,
        instance.#metrics.listen(config.host, config.metricsPort),
      );
      deps.report({ type: "listening", port, metricsPort });
      deps.log.info("listening", { instance: config.id, port, metricsPort });
      return instance;
    } catch (error) {
      await instance.#close();
      throw error;
    }
  }

  /** Loads the model and warms it up. Rejects with StartError; a drain ends it early, without an error. */
  load(): Promise<void> {
    const { signal } = this.#stop;
    this.#loading = this.#load().catch((error: unknown) => {
      if (!signal.aborted) throw error;
    });
    return this.#loading;
  }

  async #load(): Promise<void> {
    const { createBackend, resolveModel, clock, log, report } = this.#deps;
    const { signal } = this.#stop;
    const become = (state: "Loading" | "WarmingUp", fraction?: number) => {
      this.#server.become(state, this.#backend);
      report({ type: "state", state, ...(fraction !== undefined && { fraction }) });
    };
    become("Loading");
    let config = this.#config;
    if (config.model && config.modelPath === undefined) {
      const modelPath = await orFail(
        "ModelDownloadFailed",
        resolveModel(config, (fraction) => become("Loading", fraction), signal),
      );
      config = { ...config, modelPath };
    }
    const onProgress = ({ fraction }: { fraction?: number }) => become("Loading", fraction);
    this.#backend = await orFail("ModelInvalid", createBackend(config, { clock, log, onProgress, signal }));
    if (this.#threads !== undefined) this.#backend.setThreads?.(this.#threads);
    signal.throwIfAborted();
    become("WarmingUp");
    const { seconds, tokensPerSecond } = await orFail("WarmupFailed", this.#warmUp(this.#backend));
    const { device, modelName, warning } = this.#backend.facts;
    this.#server.warmedUp({ seconds, tokensPerSecond });
    this.#server.become("Ready", this.#backend);
    report({ type: "state", state: "Ready" });
    report({
      type: "ready",
      device,
      modelName,
      warmupSeconds: seconds,
      tokensPerSecond,
      ...(warning !== undefined && { warning }),
    });
    log.info("ready", { instance: config.id, device, modelName, warmupSeconds: seconds, tokensPerSecond });
    if (warning !== undefined) log.warn(warning, { instance: config.id });
  }

  /** One real inference, within the time that any request gets. */
  async #warmUp(backend: LLMBackend): Promise<Warmup> {
    const seconds = this.#config.requestTimeoutSeconds;
    const late = new AbortController();
    const cancel = this.#deps.clock.after(seconds * 1000, () => {
      late.abort(
        new Error(`the warm-up took longer than requestTimeoutSeconds (${seconds}): use a smaller model, or raise it`),
      );
    });
    try {
      return await backend.warmup(this.#config.warmupPrompt, AbortSignal.any([this.#stop.signal, late.signal]));
    } finally {
      cancel();
    }
  }

  /** Counts from the end of loading on, if it comes earlier. */
  setThreads(count: number): void {
    this.#threads = count;
    this.#backend?.setThreads?.(count);
  }

  /**
   * Takes no new work, lets what was accepted end within `graceMs`, then ends everything and closes. Called again with less, it hurries up.
   * Resolves when all is closed.
   */
  async drain(graceMs: number): Promise<void> {
    const { clock, report } = this.#deps;
    if (!this.#stop.signal.aborted) {
      this.#server.become("Draining");
      report({ type: "state", state: "Draining" });
      this.#stop.abort(new Error("the instance is shutting down"));
    }
    const over = new AbortController();
    await Promise.race([this.#server.idle(), sleep(clock, graceMs, over.signal).catch(() => {})]);
    over.abort();
    this.#closing ??= this.#close();
    await this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.drain(0);
  }

  async #close(): Promise<void> {
    await this.#server.close();
    await this.#metrics.close();
    await this.#loading.catch(() => {});
    await this.#backend?.close();
  }
}

/** What failed gets a reason: its own, or the one of the step it failed in. */
async function orFail<T>(reason: FailureReason, step: Promise<T>): Promise<T> {
  try {
    return await step;
  } catch (error) {
    if (error instanceof StartError) throw error;
    throw new StartError(reason, messageOf(error), { cause: error });
  }
}

async function opened(field: string, port: number, listening: Promise<number>): Promise<number> {
  try {
    return await listening;
  } catch (error) {
    const inUse = (error as NodeJS.ErrnoException).code === "EADDRINUSE";
    throw new StartError(
      inUse ? "PortInUse" : "ConfigInvalid",
      `${field} ${port} cannot be opened: ${messageOf(error)}`,
    );
  }
}
