import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Setting } from "../api/environment.ts";
import type { LLMPool } from "../api/llmpool.ts";
import { loadPool } from "../api/load.ts";
import { ManifestError } from "../api/problem.ts";
import { planPool } from "../core/plan/plan.ts";
import type { PoolPlan } from "../core/plan/types.ts";
import { leftOut, localProblems } from "./local-check.ts";

/** Secrets by name, then by key, as the router takes them. */
export type LocalSecrets = Record<string, Record<string, Buffer>>;

/** A file's text, understood: a pool that can run here. */
export interface Definition {
  pool: LLMPool;
  plan: PoolPlan;
  secrets: LocalSecrets;
  /** One line each, for people. */
  notes: string[];
}

export interface DefinitionOptions {
  /** How messages call the text. */
  source: string;
  /** Of `--set`. They win over the environment. */
  settings?: readonly Setting[];
  env: Readonly<Record<string, string | undefined>>;
  cwd: string;
  /** Folders of `--secret NAME=DIR`: one file a key, as a cluster mounts them. They win over the text. */
  secretDirs: ReadonlyMap<string, string>;
  /** Folders of `--volume CLAIM=DIR`. */
  volumes: ReadonlyMap<string, string>;
}

/** Throws one ManifestError that lists everything that is wrong, for this machine too. */
export function define(text: string, options: DefinitionOptions): Definition {
  const { source, settings = [], env, cwd, secretDirs, volumes } = options;
  const { pool, secrets: documents, notes } = loadPool(text, { source, flags: settings, env, cwd });
  const plan = planPool(pool);
  const secrets: LocalSecrets = {};
  for (const [name, keys] of documents) {
    secrets[name] = Object.fromEntries([...keys].map(([key, value]) => [key, Buffer.from(value)]));
  }
  for (const [name, dir] of secretDirs) secrets[name] = readSecretDir(name, dir);
  const problems = localProblems(pool, plan, { volumes, secrets: new Set(Object.keys(secrets)) });
  if (problems.length > 0) throw new ManifestError(source, problems);
  const out = leftOut(pool);
  if (out.length > 0) notes.push(`left out on this machine: ${out.join(", ")}`);
  return { pool, plan, secrets, notes };
}

/** A Secret as a cluster mounts it: one file a key. */
export function readSecretDir(name: string, dir: string): Record<string, Buffer> {
  try {
    // A mounted Secret has links and dot-folders of its own beside the keys.
    const files = readdirSync(dir, { withFileTypes: true }).filter((f) => !f.isDirectory() && !f.name.startsWith("."));
    return Object.fromEntries(files.map((file) => [file.name, readFileSync(join(dir, file.name))]));
  } catch (cause) {
    throw new Error(`--secret ${name}=${dir}: the folder cannot be read`, { cause });
  }
}
