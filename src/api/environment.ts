import { isAbsolute, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { isObject } from "./defaults.ts";
import { nearest } from "./nearest.ts";
import { joinPath, type Problem } from "./problem.ts";

/** One field that a flag or the environment sets; it wins over the manifest. */
export interface Setting {
  path: readonly string[];
  value: unknown;
  /** The flag or variable, as messages call it. */
  from: string;
}

export interface Environment {
  settings: Setting[];
  problems: Problem[];
  /** Variables that were left out, and why: for one line each. */
  notes: string[];
}

type Env = Readonly<Record<string, string | undefined>>;

const BACKENDS: Readonly<Record<string, string>> = {
  llama_cpp_metal: "llama-cpp",
  llama_cpp: "llama-cpp",
  "llama-cpp": "llama-cpp",
  hf_cuda: "hf-cuda",
  "hf-cuda": "hf-cuda",
  stub: "stub",
};

const NUMBERS = {
  APEX_LLM_INSTANCES: ["spec", "instances"],
  APEX_LLM_CTX_TOKENS: ["spec", "contextTokens"],
  APEX_LLM_TIMEOUT_S: ["spec", "requestTimeoutSeconds"],
  APEX_EPISODE_TIMEOUT_S: ["spec", "episodes", "timeoutSeconds"],
  APEX_PROGRESS_EXTEND_S: ["spec", "episodes", "progressExtendSeconds"],
  APEX_EPISODE_TIMEOUT_MAX_S: ["spec", "episodes", "maxTimeoutSeconds"],
} as const;

/**
 * What the APEX_* variables say, for local pools alone: a resource from an API server is never overridden. An empty variable counts as
 * absent. `cwd` is what a relative model path starts from; `asked` is the backend that a flag or the manifest asks for.
 */
export function readEnvironment(env: Env, cwd: string, asked: { flag?: unknown; manifest?: unknown }): Environment {
  const settings: Setting[] = [];
  const problems: Problem[] = [];
  const notes: string[] = [];
  const stub = readStub(env, problems);
  const backend = readBackend(env, problems);
  const named = stub ? "stub" : backend;
  if (named !== undefined)
    settings.push({ path: ["spec", "backend"], value: named, from: stub ? "APEX_LLM_STUB" : "APEX_LLM_BACKEND" });
  for (const [name, path] of Object.entries(NUMBERS)) {
    const text = env[name];
    if (!text) continue;
    // The schema judges the range.
    if (/^[+-]?[0-9]{1,15}$/.test(text.trim())) settings.push({ path, value: Number(text), from: name });
    else problems.push({ path: name, message: `is ${JSON.stringify(text)}: write a whole number` });
  }
  const model = readModel(env, String(asked.flag ?? named ?? asked.manifest ?? ""), cwd, notes);
  if (model) settings.push(model);
  return { settings, problems, notes };
}

function readStub(env: Env, problems: Problem[]): boolean {
  const text = env.APEX_LLM_STUB?.trim().toLowerCase() ?? "";
  if (["", "0", "false"].includes(text)) return false;
  if (!["1", "true"].includes(text))
    problems.push({ path: "APEX_LLM_STUB", message: `is ${JSON.stringify(text)}: write 1 or 0` });
  return true;
}

function readBackend(env: Env, problems: Problem[]): string | undefined {
  const text = env.APEX_LLM_BACKEND?.trim();
  if (!text) return undefined;
  const backend = Object.hasOwn(BACKENDS, text) ? BACKENDS[text] : undefined;
  if (backend === undefined) {
    const guess = nearest(text, Object.keys(BACKENDS));
    const hint = guess === undefined ? "" : `; did you mean ${guess}?`;
    problems.push({
      path: "APEX_LLM_BACKEND",
      message: `is ${JSON.stringify(text)}: write llama_cpp_metal, hf_cuda or stub${hint}`,
    });
  }
  return backend;
}

/** Each of the two model variables belongs to one backend; both may be set, and the backend chooses. */
function readModel(env: Env, backend: string, cwd: string, notes: string[]): Setting | undefined {
  const path = ["spec", "model", "uri"] as const;
  const { APEX_GGUF_MODEL_PATH: file, APEX_LLM_MODEL_ID: id } = env;
  const useFile = backend === "llama-cpp";
  const useId = backend === "hf-cuda" || (useFile && !file && (id?.includes(".gguf") ?? false));
  const unused = (name: string, why: string) => notes.push(`${name} is left out: ${why}`);
  if (file && !useFile) unused("APEX_GGUF_MODEL_PATH", `backend ${backend} loads no GGUF file`);
  if (id && !useId)
    unused(
      "APEX_LLM_MODEL_ID",
      file && useFile ? "APEX_GGUF_MODEL_PATH is set" : `backend ${backend} does not load it`,
    );
  if (file && useFile) {
    const uri = file.includes("://") ? file : pathToFileURL(isAbsolute(file) ? file : resolve(cwd, file)).href;
    return { path, value: uri, from: "APEX_GGUF_MODEL_PATH" };
  }
  if (id && useId) return { path, value: id.includes("://") ? id : `hf://${id}`, from: "APEX_LLM_MODEL_ID" };
  return undefined;
}

/** A copy of the manifest with the settings in it; the first of two settings of one field wins. */
export function applySettings(
  manifest: Record<string, unknown>,
  settings: readonly Setting[],
): Record<string, unknown> {
  const changed = structuredClone(manifest);
  for (const { path, value } of settings.toReversed()) {
    const field = joinPath(path);
    if (field === "spec.model.uri") replaceModel(changed, value);
    else setField(changed, path, value);
    if (field === "spec.backend" && value === "stub") makeVariantsStub(changed);
  }
  return changed;
}

function setField(target: Record<string, unknown>, path: readonly string[], value: unknown): void {
  const [step = "", ...rest] = path;
  if (rest.length === 0) target[step] = value;
  else {
    const inner = isObject(target[step]) ? target[step] : {};
    target[step] = inner;
    setField(inner, rest, value);
  }
}

/** What the manifest says about the file (checksum, quantization, size) is about another file now; where to keep it is not. */
function replaceModel(manifest: Record<string, unknown>, uri: unknown): void {
  const spec = isObject(manifest.spec) ? manifest.spec : {};
  const old = isObject(spec.model) ? spec.model : {};
  const { secretRef, cache } = old;
  manifest.spec = spec;
  if (old.uri !== uri)
    spec.model = { uri, ...(secretRef !== undefined && { secretRef }), ...(cache !== undefined && { cache }) };
}

/** A pool that is asked to run without models has none in its variants either. */
function makeVariantsStub(manifest: Record<string, unknown>): void {
  const variants = isObject(manifest.spec) ? manifest.spec.variants : undefined;
  if (Array.isArray(variants)) for (const variant of variants) if (isObject(variant)) delete variant.backend;
}
