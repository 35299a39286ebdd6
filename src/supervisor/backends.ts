import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import type { InstanceConfig } from "../api/instance.ts";

/** What one instance runs, as `llamaCpp` and `stub` make it. */
export interface BackendSpec {
  backend: InstanceConfig["backend"];
  model?: NonNullable<InstanceConfig["model"]>;
  contextTokens: number;
  sessions: number;
  stub: InstanceConfig["stub"];
  memoryLimitBytes?: number;
  cpuLimit?: number;
}

interface CommonOptions {
  /** Tokens of one session, prompt and answer together. Default 4096. */
  contextTokens?: number;
  /** KV caches kept warm, and requests that run at once. Default 4. */
  sessions?: number;
  /** The process is killed, with reason OutOfMemory, when it holds more. Default: no limit. */
  memoryLimitBytes?: number;
  /** Most CPUs it may compute with. Default: all that are free. */
  cpuLimit?: number;
}

export interface LlamaCppOptions extends CommonOptions {
  /** A GGUF file's path, or `hf://`, `https://`, `file://` or `pypi://` as in a resource. */
  model: string;
  /** Of the file, in hex; checked when given. */
  sha256?: string;
}

/** A llama.cpp process with a GGUF model. */
export function llamaCpp({ model, sha256 = "", ...common }: LlamaCppOptions): BackendSpec {
  const uri = /^[a-z]+:\/\//.test(model) ? model : pathToFileURL(resolve(model)).href;
  return { backend: "llama-cpp", model: { uri, sha256, quantization: "" }, ...withDefaults(common), stub: NO_STUB };
}

export type StubOptions = CommonOptions & Partial<InstanceConfig["stub"]>;

/** A simulator without a model: deterministic answers, settable speed and faults. For tests. */
export function stub(options: StubOptions = {}): BackendSpec {
  const { ttftMs = 0, interTokenMs = 0, replyTokens = 16, errorRate = 0, ...common } = options;
  return { backend: "stub", ...withDefaults(common), stub: { ttftMs, interTokenMs, replyTokens, errorRate } };
}

const NO_STUB = { ttftMs: 0, interTokenMs: 0, replyTokens: 16, errorRate: 0 };

const withDefaults = ({ contextTokens = 4096, sessions = 4, ...rest }: CommonOptions) => ({
  contextTokens,
  sessions,
  ...rest,
});
