import { boolYaml11Tag, CORE_SCHEMA, loadAll, mergeTag, YAMLException } from "js-yaml";
import { isObject } from "./defaults.ts";
import { KIND } from "./names.ts";
import { ManifestError, type Problem } from "./problem.ts";

/** Secrets by name, then by key. */
export type Secrets = ReadonlyMap<string, ReadonlyMap<string, Uint8Array>>;

/** The documents of one file: LLMPools as they stand, not yet checked, and Secrets. */
export interface Documents {
  pools: Record<string, unknown>[];
  secrets: Secrets;
}

/** The size that an API server takes of one object. */
const MAX_BYTES = 1_572_864;

/** Aliases can make a small text stand for a huge tree; nothing real has this many values. */
const MAX_VALUES = 200_000;

/** Booleans and merge keys as kubectl reads them. */
const SCHEMA = CORE_SCHEMA.withTags(boolYaml11Tag, mergeTag);

/** Reads YAML or JSON of one or more documents. Throws ManifestError; `source` is how its message calls the text. */
export function readDocuments(text: string, source: string): Documents {
  if (Buffer.byteLength(text) > MAX_BYTES) {
    throw new ManifestError(source, [
      { path: "", message: `is larger than ${MAX_BYTES} bytes: no cluster would take it` },
    ]);
  }
  const pools: Record<string, unknown>[] = [];
  const secrets = new Map<string, ReadonlyMap<string, Uint8Array>>();
  const problems: Problem[] = [];
  for (const [index, document] of parse(text, source).entries()) {
    if (document === null || document === undefined) continue;
    if (!isSmall(document, { left: MAX_VALUES }))
      problems.push({ path: "", message: `document ${index + 1} holds too many values` });
    else if (isObject(document) && document.kind === KIND) pools.push(document);
    else if (isObject(document) && document.kind === "Secret") readSecret(document, secrets, problems);
    else
      problems.push({
        path: "",
        message: `document ${index + 1} is ${kindOf(document)}: only LLMPool and Secret are read`,
      });
  }
  if (problems.length > 0) throw new ManifestError(source, problems);
  return { pools, secrets };
}

/** The pool called `name`, or the only one. Throws ManifestError that names the pools there are. */
export function choosePool({ pools }: Documents, source: string, name?: string): Record<string, unknown> {
  const names = pools.map((pool) => (isObject(pool.metadata) ? String(pool.metadata.name) : "(without a name)"));
  const found = name === undefined ? pools : pools.filter((_, index) => names[index] === name);
  const [pool, ...others] = found;
  if (pool && others.length === 0) return pool;
  const there = names.length === 0 ? "it holds no LLMPool" : `it holds ${names.join(", ")}`;
  const wanted = pool
    ? "there are several pools: choose one by its name"
    : name === undefined
      ? "there is no pool"
      : `there is no pool ${name}`;
  throw new ManifestError(source, [{ path: "", message: `${wanted} (${there})` }]);
}

function parse(text: string, source: string): unknown[] {
  try {
    return loadAll(text, { schema: SCHEMA, filename: source, maxDepth: 100, maxAliases: 1000 });
  } catch (error) {
    if (!(error instanceof YAMLException)) throw error;
    const { reason, mark } = error;
    const place = mark ? `line ${mark.line + 1}, column ${mark.column + 1}: ` : "";
    throw new ManifestError(source, [{ path: "", message: `${place}${reason}\n${mark?.snippet ?? ""}`.trimEnd() }], {
      cause: error,
    });
  }
}

/** `data` is base64, `stringData` text and wins, as on a cluster. */
function readSecret(
  document: Record<string, unknown>,
  secrets: Map<string, ReadonlyMap<string, Uint8Array>>,
  problems: Problem[],
): void {
  const name = isObject(document.metadata) ? document.metadata.name : undefined;
  if (typeof name !== "string") {
    problems.push({ path: "metadata.name", message: "a Secret has no name: write one" });
    return;
  }
  if (secrets.has(name)) problems.push({ path: "", message: `Secret ${name} is there twice: keep one` });
  const keys = new Map<string, Uint8Array>();
  for (const field of ["data", "stringData"] as const) {
    const map = document[field] ?? {};
    if (!isObject(map)) {
      problems.push({ path: field, message: `of Secret ${name} is not a map: write key: value` });
      continue;
    }
    for (const [key, value] of Object.entries(map)) {
      const bytes = typeof value === "string" ? bytesOf(value, field) : undefined;
      if (bytes) keys.set(key, bytes);
      else
        problems.push({
          path: `${field}.${key}`,
          message: `of Secret ${name} is not ${field === "data" ? "base64" : "a text"}`,
        });
    }
  }
  secrets.set(name, keys);
}

function bytesOf(value: string, field: "data" | "stringData"): Uint8Array | undefined {
  if (field === "stringData") return Buffer.from(value, "utf8");
  const compact = value.replace(/\s/g, "");
  return /^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(compact)
    ? Buffer.from(compact, "base64")
    : undefined;
}

function isSmall(value: unknown, budget: { left: number }): boolean {
  if (--budget.left < 0) return false;
  return typeof value !== "object" || value === null || Object.values(value).every((inner) => isSmall(inner, budget));
}

function kindOf(document: unknown): string {
  if (!isObject(document)) return Array.isArray(document) ? "a list" : "not an object";
  return typeof document.kind === "string" ? `a ${document.kind}` : "without a kind";
}
