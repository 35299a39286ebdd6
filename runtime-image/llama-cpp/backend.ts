import { existsSync } from "node:fs";
import { getModuleVersion } from "node-llama-cpp";
import type { LLMBackend } from "../../src/api/backend.ts";
import { type InstanceConfig, StartError } from "../../src/api/instance.ts";
import { availableCpus } from "../../src/lib/cpus.ts";
import { messageOf } from "../../src/lib/errors.ts";
import type { BackendDeps } from "../factory.ts";
import { type Engine, loadEngine } from "./engine.ts";
import { LlamaCppBackend, type LlamaCppDeps } from "./llama-backend.ts";
import { Prompts } from "./prompt.ts";
import { SavedSessions, type SavedSessionsOptions } from "./saved-sessions.ts";
import { compatibilityKey } from "./state-file.ts";

/** Full contexts per sequence that saved sessions may take on disk, before the oldest are deleted. */
const SAVED_PER_SEQUENCE = 2;
/** What a saved session takes besides its KV cache: tokens, and the engine's own tables. */
const STATE_OVERHEAD_BYTES = 2 ** 20;

/** Loads the model at `config.modelPath`. Rejects with StartError; nothing stays allocated then. */
export async function createBackend(config: InstanceConfig, deps: LlamaCppDeps): Promise<LLMBackend> {
  const cpus = availableCpus();
  const engine = await loadEngine({
    config,
    log: deps.log,
    cpus,
    threads: Math.min(config.threads ?? cpus, cpus),
    gpuExpected: gpuExpected(),
    signal: deps.signal,
    onProgress: (fraction) => deps.onProgress({ stage: "loading", fraction }),
  });
  try {
    const prompts = makePrompts(engine, config);
    return new LlamaCppBackend(config, deps, engine, prompts, await openSaved(engine, config, deps));
  } catch (error) {
    await engine.close();
    throw error;
  }
}

function makePrompts(engine: Engine, config: InstanceConfig): Prompts {
  try {
    return new Prompts(engine.model, engine.file, config.contextTokens);
  } catch (error) {
    throw new StartError(
      "ModelInvalid",
      `the chat template in ${engine.file.path} cannot be read: ${messageOf(error)}`,
      { cause: error },
    );
  }
}

async function openSaved(
  { file, context, llama }: Engine,
  config: InstanceConfig,
  { clock, log }: BackendDeps,
): Promise<SavedSessions> {
  const sessionBytes = config.contextTokens * file.kvBytesPerToken + STATE_OVERHEAD_BYTES;
  const options: SavedSessionsOptions = {
    dir: config.stateDir,
    key: compatibilityKey({
      model: file.digest,
      library: await getModuleVersion(),
      sequences: config.sessions,
      contextTokens: config.contextTokens,
      device: String(llama.gpu),
      flashAttention: String(context.flashAttention),
      keyType: String(context.kvCacheKeyType),
      valueType: String(context.kvCacheValueType),
    }),
    mostBytes: SAVED_PER_SEQUENCE * config.sessions * sessionBytes,
    sessionBytes,
    ttlMs: config.sessionTTLSeconds * 1000,
    clock,
    log,
  };
  try {
    return await SavedSessions.open(options);
  } catch (error) {
    const message = `saved sessions cannot be kept in ${config.stateDir}: ${messageOf(error)}`;
    throw new StartError("ConfigInvalid", message, { cause: error });
  }
}

/** A Mac with Apple silicon has Metal; elsewhere NVIDIA's and AMD's drivers leave a device file. */
const gpuExpected = (): boolean =>
  (process.platform === "darwin" && process.arch === "arm64") || existsSync("/dev/nvidiactl") || existsSync("/dev/kfd");
