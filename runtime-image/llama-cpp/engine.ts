import { resolve } from "node:path";
import {
  getLlama,
  InsufficientMemoryError,
  type Llama,
  type LlamaContext,
  LlamaLogLevel,
  type LlamaModel,
  NoBinaryFoundError,
} from "node-llama-cpp";
import type { InstanceConfig } from "../../src/api/instance.ts";
import { StartError } from "../../src/api/instance.ts";
import { messageOf } from "../../src/lib/errors.ts";
import type { Logger } from "../../src/lib/logger.ts";
import { invalid } from "../../src/models/gguf-file.ts";
import { type ModelFile, readModelFile } from "./model-file.ts";
import { EngineSequence, type Sequence } from "./sequence.ts";

/** Tokens of one batch, which is also the largest prefill chunk. The compute buffer grows with it; a CPU gains nothing above 64. */
const CPU_BATCH = 64;
const GPU_BATCH = 512;

export interface Engine {
  readonly llama: Llama;
  readonly model: LlamaModel;
  readonly context: LlamaContext;
  readonly file: ModelFile;
  readonly sequences: readonly Sequence[];
  /** What computes, for people. */
  readonly device: string;
  /** Set when a GPU was expected and the CPU computes. */
  readonly warning?: string;
  close(): Promise<void>;
}

export interface EngineOptions {
  config: InstanceConfig;
  log: Logger;
  /** Most threads it will ever use, and those to begin with. */
  cpus: number;
  threads: number;
  /** True where a GPU is there, so that the CPU alone is worth a warning. */
  gpuExpected: boolean;
  signal: AbortSignal;
  /** 0 to 1. */
  onProgress(fraction: number): void;
}

/** Loads the model into an engine of its own. Rejects with StartError; nothing stays allocated then. */
export async function loadEngine(options: EngineOptions): Promise<Engine> {
  const { config, signal } = options;
  if (config.modelPath === undefined) throw new StartError("ConfigInvalid", "modelPath is missing");
  const file = await readModelFile(resolve(config.modelPath));
  signal.throwIfAborted();
  const complaints: string[] = [];
  const llama = await startLlama(options, complaints);
  try {
    const model = await loadModel(llama, file, options, complaints);
    checkContext(config, model, file);
    const context = await createContext(model, options, complaints);
    options.onProgress(1);
    const device = llama.gpu === false ? "CPU" : await gpuName(llama);
    const warning = options.gpuExpected && llama.gpu === false ? fallbackWarning(complaints) : undefined;
    return {
      ...{ llama, model, context, file, device },
      ...(warning !== undefined && { warning }),
      sequences: Array.from({ length: config.sessions }, () => new EngineSequence(context)),
      close: () => closeAll(llama, model, context),
    };
  } catch (error) {
    await llama.dispose(); // its models and contexts go with it
    throw error;
  }
}

/** Context first, then model, then library: another order aborts the process. */
async function closeAll(llama: Llama, model: LlamaModel, context: LlamaContext): Promise<void> {
  await context.dispose();
  await model.dispose();
  await llama.dispose();
}

/** Never builds and never downloads: an instance that starts to compile is worse than one that says what is missing. */
async function startLlama({ log, cpus }: EngineOptions, complaints: string[]): Promise<Llama> {
  try {
    return await getLlama({
      gpu: "auto",
      build: "never",
      skipDownload: true,
      progressLogs: false,
      maxThreads: cpus,
      logLevel: LlamaLogLevel.warn,
      logger: (level, text) => {
        const line = text.trim();
        if (line === "") return;
        if (level === LlamaLogLevel.error || level === LlamaLogLevel.fatal) complaints.push(line);
        log.debug("llama.cpp", { severity: level, line });
      },
    });
  } catch (error) {
    if (error instanceof NoBinaryFoundError) {
      const what = `${process.platform}-${process.arch}`;
      throw new StartError(
        "ConfigInvalid",
        `there is no llama.cpp binary for ${what}: install the @node-llama-cpp package for it`,
        { cause: error },
      );
    }
    throw error;
  }
}

async function loadModel(
  llama: Llama,
  file: ModelFile,
  options: EngineOptions,
  complaints: string[],
): Promise<LlamaModel> {
  try {
    return await llama.loadModel({
      modelPath: file.path,
      gpuLayers: llama.gpu === false ? 0 : "max",
      loadSignal: options.signal,
      onLoadProgress: (fraction) => options.onProgress(fraction * 0.9),
    });
  } catch (error) {
    options.signal.throwIfAborted();
    if (error instanceof InsufficientMemoryError) {
      throw new StartError(
        "OutOfMemory",
        `the model (${mebibytes(file.bytes)}) does not fit into the memory: ${error.message}`,
        { cause: error },
      );
    }
    throw invalid(file.path, reasonOf(error, complaints), error);
  }
}

/** The library only warns above the trained length, and the answers are noise there. */
function checkContext(config: InstanceConfig, model: LlamaModel, file: ModelFile): void {
  const trained = model.trainContextSize;
  if (trained < 1) throw invalid(file.path, "its trained context length is damaged");
  if (config.contextTokens <= trained) return;
  throw new StartError(
    "ConfigInvalid",
    `contextTokens is ${config.contextTokens}, but ${file.path} is trained for at most ${trained}: set contextTokens to ${trained} or less`,
  );
}

async function createContext(
  model: LlamaModel,
  { config, cpus, threads, signal }: EngineOptions,
  complaints: string[],
): Promise<LlamaContext> {
  try {
    const context = await model.createContext({
      contextSize: config.contextTokens,
      sequences: config.sessions,
      batchSize: model.llama.gpu === false ? CPU_BATCH : GPU_BATCH,
      // Sliding-window models would forget what a next turn needs.
      swaFullCache: true,
      threads: { ideal: cpus, min: 1 },
      failedCreationRemedy: false,
      createSignal: signal,
    });
    model.llama.maxThreads = threads;
    return context;
  } catch (error) {
    signal.throwIfAborted();
    const need = `${config.sessions} sessions of ${config.contextTokens} tokens`;
    throw new StartError(
      "OutOfMemory",
      `there is no memory for ${need}: lower sessionsPerInstance or contextTokens (${reasonOf(error, complaints)})`,
      { cause: error },
    );
  }
}

async function gpuName(llama: Llama): Promise<string> {
  const names = [...new Set(await llama.getGpuDeviceNames())].join(", ");
  if (llama.gpu === "cuda") return names || "CUDA";
  const kind = llama.gpu === "metal" ? "Metal" : "Vulkan";
  return names ? `${kind} (${names})` : kind;
}

function fallbackWarning(complaints: readonly string[]): string {
  const why = complaints.at(-1);
  const cure =
    process.platform === "darwin"
      ? "containers on a Mac have no Metal: run it on the host"
      : "see docs/llama-cpp.md on GPU binaries";
  return `computes on the CPU although there is a GPU: ${why ? `${why}; ` : ""}${cure}`;
}

/** The native loader says why it failed only in its log. */
function reasonOf(error: unknown, complaints: readonly string[]): string {
  const said = complaints.map((line) => line.replace(/^\w+: (error loading model: )?/, ""));
  return said.findLast((line) => !/^failed to (load|create)/i.test(line)) ?? messageOf(error);
}

const mebibytes = (bytes: number): string => `${Math.round(bytes / 2 ** 20)} MiB`;
