import { isObject, schemaAt } from "../api/defaults.ts";
import type { Schema } from "../api/structural.ts";

/** The value without the fields that the schema does not know, as an API server stores it. */
export function prune(value: unknown, schema: Schema): unknown {
  const { items } = schema;
  if (Array.isArray(value)) return items ? value.map((item) => prune(item, items)) : value;
  if (!isObject(value) || schema["x-kubernetes-preserve-unknown-fields"]) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, inner]) => {
      const known = schemaAt(schema, [key]);
      return known ? [[key, prune(inner, known)]] : [];
    }),
  );
}
