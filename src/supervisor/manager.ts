import { randomBytes } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import type { ChatMessage, FinishReason, Usage } from "../api/backend.ts";
import { Id } from "../api/http.ts";
import type { Endpoint } from "../core/endpoint.ts";
import { type Clock, systemClock } from "../lib/clock.ts";
import { availableCpus } from "../lib/cpus.ts";
import { LLMPoolError } from "../lib/errors.ts";
import { type Logger, silentLogger } from "../lib/logger.ts";
import { defaultCacheDir } from "../models/cache-dir.ts";
import type { BackendSpec } from "./backends.ts";
import { InstanceClient } from "./instance-client.ts";
import { makePrivateFolder } from "./private-folder.ts";
import type { ProcessSpec } from "./spec.ts";
import { makeSupervisor } from "./start.ts";
import type { Supervisor } from "./supervisor.ts";

export type { ChatMessage, FinishReason, Usage } from "../api/backend.ts";
export type { InstanceState } from "../api/instance.ts";
export type { Endpoint } from "../core/endpoint.ts";
export { type ErrorCode, LLMPoolError } from "../lib/errors.ts";
export { type BackendSpec, type LlamaCppOptions, llamaCpp, type StubOptions, stub } from "./backends.ts";

export interface ManagerOptions {
  /** Isolated processes. Default 5. */
  instances?: number;
  /** What instance `index` (from 0) runs. */
  backendFactory: (index: number) => BackendSpec;
  /** Name of the pool, in the instances' metrics. Default `local`. */
  pool?: string;
  /** The inference that proves an instance. Default `test`. */
  warmupPrompt?: string;
  /** Limit of one generation, and its default. Default 180. */
  requestTimeoutSeconds?: number;
  /** How long an idle session's cache is kept. Default 7200. */
  sessionTTLSeconds?: number;
  /** Where models are kept. Default: the user's cache folder. */
  cacheDir?: string;
  /** Of which the instances see what they need to find programs, network and GPU. Default: this process's. */
  env?: Readonly<Record<string, string | undefined>>;
  log?: Logger;
  clock?: Clock;
}

export interface GenerateOptions {
  /** `0` to `instances - 1`. */
  instanceId: number | string;
  /** The KV cache to continue: 1 to 128 letters, digits and `. _ : -`. Absent: a one-off. */
  sessionId?: string;
  /** One user message. Either this or `messages`. */
  prompt?: string;
  messages?: readonly ChatMessage[];
  /** Default: what the context leaves. */
  maxNewTokens?: number;
  timeoutSeconds?: number;
  stop?: string | readonly string[];
  temperature?: number;
  seed?: number;
  signal?: AbortSignal;
}

export interface GenerateResult {
  text: string;
  instanceId: string;
  sessionId: string | undefined;
  finishReason: FinishReason;
  usage: Usage;
}

export type GenerateStreamEvent = { type: "text"; text: string } | { type: "done"; result: GenerateResult };

/** An instance that cannot start the first time gets this many tries before `start` gives up. */
const START_TRIES = 3;

/**
 * N isolated model processes of this machine, as a library: started and warmed by `start`, restarted when they die, each asked by its id.
 * All errors are LLMPoolError, but an abort, which rejects with the signal's reason.
 */
export class MultiInstanceManager implements AsyncDisposable {
  readonly #options: ManagerOptions;
  readonly #env: NonNullable<ManagerOptions["env"]>;
  readonly #ids: readonly string[];
  readonly #token = randomBytes(32).toString("hex");
  readonly #client = new InstanceClient(this.#token);
  readonly #supervisor: Supervisor;
  #folder: Awaited<ReturnType<typeof makePrivateFolder>> | undefined;
  #started: Promise<void> | undefined;
  #closed: Promise<void> | undefined;

  constructor(options: ManagerOptions) {
    const count = options.instances ?? 5;
    if (!Number.isInteger(count) || count < 1) {
      throw new LLMPoolError("invalid_request", `instances must be a whole number above 0, not ${count}`, {
        param: "instances",
      });
    }
    this.#options = options;
    this.#env = options.env ?? process.env;
    this.#ids = Array.from({ length: count }, (_, i) => String(i));
    this.#supervisor = makeSupervisor({
      clock: options.clock ?? systemClock,
      log: options.log ?? silentLogger,
      env: this.#env,
      cpus: availableCpus(),
    });
  }

  /**
   * Starts all and resolves when every one has passed its warm-up inference. When one cannot start, or on abort, all end and it rejects.
   * Afterwards a process that dies is started again by itself.
   */
  start(options: { signal?: AbortSignal; onProgress?: (instances: readonly Endpoint[]) => void } = {}): Promise<void> {
    this.#started ??= this.#start(options);
    return this.#started;
  }

  /** True when every instance is warm right now. */
  ready(): boolean {
    const instances = this.#supervisor.list();
    return instances.length === this.#ids.length && instances.every((one) => one.state === "Ready");
  }

  instances(): readonly Endpoint[] {
    return this.#supervisor.list();
  }

  async generate(options: GenerateOptions): Promise<GenerateResult> {
    for await (const event of this.stream(options)) {
      if (event.type === "done") return event.result;
    }
    throw new LLMPoolError("upstream_error", "the instance's answer broke off");
  }

  /** Text as it is generated, then the whole result. Leaving the loop early stops the generation. */
  async *stream(options: GenerateOptions): AsyncGenerator<GenerateStreamEvent, void> {
    options.signal?.throwIfAborted();
    const instanceId = String(options.instanceId);
    const { sessionId } = options;
    if (sessionId !== undefined && !Id.safeParse(sessionId).success) {
      throw new LLMPoolError("invalid_request", "sessionId must be 1 to 128 letters, digits and . _ : -", {
        param: "sessionId",
      });
    }
    const limit = this.#options.requestTimeoutSeconds ?? 180;
    let text = "";
    const events = this.#client.chat(this.#ready(instanceId).url, {
      sessionId,
      messages: messagesOf(options),
      maxNewTokens: options.maxNewTokens,
      timeoutMs: Math.min(options.timeoutSeconds ?? limit, limit) * 1000,
      stop: typeof options.stop === "string" ? [options.stop] : (options.stop ?? []),
      temperature: options.temperature,
      seed: options.seed,
      signal: options.signal,
    });
    for await (const event of events) {
      if (event.type === "text") {
        text += event.text;
        yield event;
      } else {
        const { finishReason, usage } = event;
        yield { type: "done", result: { text, instanceId, sessionId, finishReason, usage } };
      }
    }
  }

  /**
   * Ends all: open generations may finish within `graceSeconds` (default 10). No process and no file is left. May be called again with a
   * shorter grace, which then counts.
   */
  close({ graceSeconds = 10 } = {}): Promise<void> {
    if (this.#closed === undefined) this.#closed = this.#close(graceSeconds * 1000);
    else void this.#supervisor.close(graceSeconds * 1000);
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #start({
    signal,
    onProgress,
  }: {
    signal?: AbortSignal;
    onProgress?: (instances: readonly Endpoint[]) => void;
  }) {
    signal?.throwIfAborted();
    if (this.#closed !== undefined) throw new LLMPoolError("instance_unavailable", "the manager is closed");
    try {
      const specs = await this.#specs();
      signal?.throwIfAborted();
      if (this.#closed !== undefined) throw startError(undefined);
      await new Promise<void>((resolve, reject) => {
        signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
        this.#supervisor.onChange(() => {
          onProgress?.(this.#supervisor.list());
          if (this.ready()) resolve();
          const hopeless = this.#supervisor.list().find(cannotStart);
          if (hopeless || this.#closed !== undefined) reject(startError(hopeless));
        });
        this.#supervisor.apply(specs);
      });
    } catch (error) {
      await this.close({ graceSeconds: 0 });
      // Closed by another while it was made.
      await this.#removeFolder();
      throw error;
    }
  }

  async #specs(): Promise<ProcessSpec[]> {
    this.#folder = await makePrivateFolder(this.#env.TMPDIR || tmpdir());
    const folder = this.#folder.path;
    const tokenFile = join(folder, "token");
    await writeFile(tokenFile, this.#token, { mode: 0o600 });
    return Promise.all(this.#ids.map((id, index) => this.#spec(id, index, folder, tokenFile)));
  }

  async #spec(id: string, index: number, folder: string, tokenFile: string): Promise<ProcessSpec> {
    const { backend, model, contextTokens, sessions, stub, memoryLimitBytes, cpuLimit } =
      this.#options.backendFactory(index);
    const stateDir = join(folder, id);
    await mkdir(stateDir);
    return {
      id,
      variant: "default",
      revision: "1",
      drainSeconds: 10,
      ...(memoryLimitBytes !== undefined && { memoryLimitBytes }),
      ...(cpuLimit !== undefined && { cpuLimit }),
      config: {
        pool: this.#options.pool ?? "local",
        id,
        variant: "default",
        backend,
        host: "127.0.0.1",
        port: 0,
        metricsPort: 0,
        tokenFile,
        ...(model && { model }),
        cacheDir: this.#options.cacheDir ?? defaultCacheDir(this.#env, process.platform, homedir()),
        stateDir,
        contextTokens,
        sessions,
        requestTimeoutSeconds: this.#options.requestTimeoutSeconds ?? 180,
        sessionTTLSeconds: this.#options.sessionTTLSeconds ?? 7200,
        warmupPrompt: this.#options.warmupPrompt ?? "test",
        stub,
      },
    };
  }

  #ready(instanceId: string): Endpoint {
    if (!this.#ids.includes(instanceId)) {
      throw new LLMPoolError("not_found", `there is no instance ${instanceId}; there are ${this.#ids.join(", ")}`, {
        param: "instanceId",
      });
    }
    const instance = this.#supervisor.list().find((one) => one.id === instanceId);
    if (instance?.state === "Ready") return instance;
    const why = instance ? `is ${instance.state}${instance.message ? `: ${instance.message}` : ""}` : "is not started";
    throw new LLMPoolError("instance_unavailable", `instance ${instanceId} ${why}`, { retryAfterSeconds: 1 });
  }

  async #close(graceMs: number): Promise<void> {
    await this.#supervisor.close(graceMs);
    await this.#client.close();
    await this.#removeFolder();
  }

  async #removeFolder(): Promise<void> {
    await this.#folder?.remove();
  }
}

function messagesOf({ prompt, messages }: GenerateOptions): readonly ChatMessage[] {
  if ((prompt === undefined) === (messages === undefined)) {
    throw new LLMPoolError("invalid_request", "give either prompt or messages", { param: "prompt" });
  }
  return messages ?? [{ role: "user", content: prompt ?? "" }];
}

const cannotStart = ({ state, lastFailure, restarts }: Endpoint): boolean =>
  state === "Failed" && (lastFailure?.lasting === true || restarts + 1 >= START_TRIES);

function startError(instance: Endpoint | undefined): LLMPoolError {
  const what = instance ? `instance ${instance.id} cannot start: ${instance.message}` : "closed while it started";
  return new LLMPoolError("instance_unavailable", what);
}
