import { isObject } from "./defaults.ts";
import { choosePool, readDocuments, type Secrets } from "./documents.ts";
import { applySettings, readEnvironment, type Setting } from "./environment.ts";
import type { LLMPool } from "./llmpool.ts";
import { joinPath, ManifestError, type Problem } from "./problem.ts";
import { type Validation, validatePool } from "./validate.ts";

export interface LoadOptions {
  /** How messages call the text: its file name. */
  source: string;
  /** Which pool, when the text holds several. */
  name?: string;
  /** Flags: they win over the environment, which wins over the text. */
  flags?: readonly Setting[];
  /** Where the APEX_* variables are. Absent: they do not count. */
  env?: Readonly<Record<string, string | undefined>>;
  /** What a relative path in a variable starts from. */
  cwd?: string;
}

export interface LoadedPool {
  pool: LLMPool;
  secrets: Secrets;
  /** One line each, for people: what was left out. */
  notes: string[];
}

/** One valid pool out of a text, flags and environment. Throws one ManifestError that lists every problem. */
export function loadPool(text: string, { source, name, flags = [], env, cwd = "/" }: LoadOptions): LoadedPool {
  const documents = readDocuments(text, source);
  const manifest = choosePool(documents, source, name);
  const asked = {
    flag: flags.find(({ path }) => joinPath(path) === "spec.backend")?.value,
    manifest: specOf(manifest).backend,
  };
  const environment = env ? readEnvironment(env, cwd, asked) : { settings: [], problems: [], notes: [] };
  const settings = [...flags, ...environment.settings];
  const result = validateWith(manifest, settings);
  const problems = [...environment.problems, ...(result.ok ? [] : result.problems)];
  if (!result.ok || problems.length > 0) throw new ManifestError(source, problems);
  return { pool: result.pool, secrets: documents.secrets, notes: environment.notes };
}

/** Validates the manifest with the settings in it. */
export function validateWith(manifest: Record<string, unknown>, settings: readonly Setting[]): Validation {
  const result = validatePool(applySettings(manifest, settings));
  return result.ok ? result : { ok: false, problems: blame(result.problems, settings) };
}

function specOf(manifest: Record<string, unknown>): Record<string, unknown> {
  return isObject(manifest.spec) ? manifest.spec : {};
}

/** Says of each problem which flag or variable brought the value in. */
function blame(problems: readonly Problem[], settings: readonly Setting[]): Problem[] {
  return problems.map((problem) => {
    const setting = settings.find(({ path }) => isWithin(problem.path, joinPath(path)));
    return setting ? { ...problem, message: `${problem.message} (set by ${setting.from})` } : problem;
  });
}

/** A setting may bring a whole list or object, and the problem lie inside of it. */
const isWithin = (path: string, field: string): boolean =>
  path === field || path.startsWith(`${field}.`) || path.startsWith(`${field}[`);
