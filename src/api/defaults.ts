import type { Schema } from "./structural.ts";

/**
 * Fills in defaults as an API server does: a null where no null is allowed counts as absent, then what is absent takes its default, and
 * defaults of parents come before those of their children. Changes `value` in place.
 */
export function applyDefaults(value: unknown, schema: Schema): void {
  if (Array.isArray(value)) {
    for (const item of value) if (schema.items) applyDefaults(item, schema.items);
    return;
  }
  if (!isObject(value)) return;
  for (const [key, inner] of Object.entries(value)) {
    // undefined cannot come from YAML or JSON, but from a caller in JavaScript.
    if (inner === undefined || (inner === null && childOf(schema, key))) delete value[key];
  }
  for (const [key, child] of Object.entries(schema.properties ?? {})) {
    if (child.default !== undefined && !Object.hasOwn(value, key)) value[key] = structuredClone(child.default);
  }
  for (const [key, inner] of Object.entries(value)) {
    const child = childOf(schema, key);
    if (child) applyDefaults(inner, child);
  }
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function childOf(schema: Schema, key: string): Schema | undefined {
  return Object.hasOwn(schema.properties ?? {}, key) ? schema.properties?.[key] : schema.additionalProperties;
}

/** The schema of the field at `path`, where there is one. */
export function schemaAt(schema: Schema, path: readonly PropertyKey[]): Schema | undefined {
  let at: Schema | undefined = schema;
  for (const step of path) at = typeof step === "number" ? at?.items : at && childOf(at, String(step));
  return at;
}
