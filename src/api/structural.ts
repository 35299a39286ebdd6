import { z } from "zod";
import type { Rule } from "./fields.ts";

/** The part of JSON schema that a CRD may hold ("structural"), and that our schemas use. */
export interface Schema {
  description?: string;
  type?: "object" | "array" | "string" | "integer" | "number" | "boolean";
  format?: string;
  default?: unknown;
  enum?: string[];
  minimum?: number;
  maximum?: number;
  minLength?: number;
  maxLength?: number;
  pattern?: string;
  maxItems?: number;
  maxProperties?: number;
  required?: string[];
  properties?: Record<string, Schema>;
  additionalProperties?: Schema;
  items?: Schema;
  anyOf?: Schema[];
  "x-kubernetes-int-or-string"?: true;
  "x-kubernetes-preserve-unknown-fields"?: true;
  "x-kubernetes-list-type"?: "map" | "set" | "atomic";
  "x-kubernetes-list-map-keys"?: string[];
  "x-kubernetes-validations"?: Rule[];
}

const INT32_MAX = 2 ** 31 - 1;

/** A zod schema as Kubernetes wants it in a CRD. Throws on what a CRD cannot say. */
export function structural(schema: z.ZodType): Schema {
  const made = z.toJSONSchema(schema, { target: "openapi-3.0", io: "input", reused: "inline", cycles: "throw" });
  return clean(made as RawSchema);
}

type RawSchema = Omit<Schema, "additionalProperties"> & { additionalProperties?: boolean | RawSchema };

function clean(raw: RawSchema): Schema {
  if (raw.anyOf) return intOrString(raw);
  const { additionalProperties: extra, properties, items, ...rest } = raw;
  const schema: Schema = rest;
  if (items) schema.items = clean(items);
  if (properties && Object.keys(properties).length > 0) {
    schema.properties = Object.fromEntries(
      Object.entries(properties).map(([name, inner]) => [name, clean(inner as RawSchema)]),
    );
  } else if (typeof extra === "object") {
    // An empty schema is that of a loose object: anything goes.
    if (Object.keys(extra).length === 0) schema["x-kubernetes-preserve-unknown-fields"] = true;
    else schema.additionalProperties = clean(extra);
  }
  if (schema.type === "integer") schema.format = (schema.maximum ?? Infinity) <= INT32_MAX ? "int32" : "int64";
  if (schema.type === undefined) throw new Error(`not structural: ${JSON.stringify(raw).slice(0, 200)}`);
  return schema;
}

/** The one union there is: a quantity. A CRD may name the two types, the rest stands beside them. */
function intOrString(raw: RawSchema): Schema {
  const { anyOf = [], ...rest } = raw;
  const number = anyOf.find((one) => one.type === "integer");
  const string = anyOf.find((one) => one.type === "string");
  if (!number || !string || anyOf.length !== 2) throw new Error(`not structural: ${JSON.stringify(raw).slice(0, 200)}`);
  const { type: _, ...bounds } = string;
  return {
    ...rest,
    ...bounds,
    ...(number.minimum !== undefined && { minimum: number.minimum }),
    anyOf: [{ type: "integer" }, { type: "string" }],
    "x-kubernetes-int-or-string": true,
  } as Schema;
}
