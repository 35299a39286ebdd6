import fc from "fast-check";
import type { Schema } from "../../src/api/structural.ts";

/** A value with one error of shape, and the paths that may be named for it. */
export interface Misshapen {
  value: unknown;
  paths: string[];
}

/** The value, which has the schema's shape, with exactly one thing wrong in it that no rule between fields is needed to see. */
export function misshape(value: unknown, schema: Schema, path: string): fc.Arbitrary<Misshapen> {
  return fc.constantFrom(...errors(value, schema, path, (whole) => whole));
}

/** `put` gives the whole with another value in this place. */
function errors(value: unknown, schema: Schema, path: string, put: (here: unknown) => unknown): Misshapen[] {
  const found = wrong(schema).map((bad) => ({ value: put(bad), paths: [path] }));
  if (Array.isArray(value)) {
    const inner = schema.items ?? {};
    found.push(...value.flatMap((item, i) => errors(item, inner, `${path}[${i}]`, (here) => put(value.with(i, here)))));
  } else if (typeof value === "object" && value !== null) {
    if (schema.properties) found.push({ value: put({ ...value, qqqqqq: 1 }), paths: [`${path}.qqqqqq`] });
    for (const [key, inner] of Object.entries(value)) {
      const child = schema.properties?.[key] ?? schema.additionalProperties;
      if (!child) continue;
      const { [key]: _, ...rest } = value as Record<string, unknown>;
      const at = `${path}.${key}`;
      found.push(...errors(inner, child, at, (here) => put({ ...value, [key]: here })));
      if (schema.properties) found.push({ value: put({ ...rest, [`${key}x`]: inner }), paths: [at, `${at}x`] });
      if (schema.required?.includes(key)) found.push({ value: put(rest), paths: [at] });
    }
  }
  return found;
}

function wrong(schema: Schema): unknown[] {
  if (schema["x-kubernetes-int-or-string"]) return ["x y", -1, true];
  switch (schema.type) {
    case "string":
      return [5, ...(schema.maxLength === undefined ? [] : ["a".repeat(schema.maxLength + 1)])];
    case "integer":
    case "number":
      return ["x", ...(schema.maximum === undefined ? [] : [schema.maximum + 1])];
    default:
      return [5];
  }
}
