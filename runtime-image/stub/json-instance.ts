import { LLMPoolError } from "../../src/lib/errors.ts";

/**
 * The smallest instance of a JSON schema by simple rules (docs/stub.md), so that a test can predict it. What the rules do not cover is
 * refused by name. Sizes are bounded before anything is built.
 */
export function jsonInstance(schema: unknown, param: string): unknown {
  return new Builder(schema, param).build(schema, 0);
}

const MAX_DEPTH = 32;
const MAX_VALUES = 10_000;
const MAX_LENGTH = 10_000;

const FORMATS: Record<string, string> = {
  "date-time": "1970-01-01T00:00:00Z",
  date: "1970-01-01",
  time: "00:00:00Z",
  email: "a@example.com",
  uri: "https://example.com",
  uuid: "00000000-0000-0000-0000-000000000000",
};

type Schema = Record<string, unknown>;

class Builder {
  readonly #root: unknown;
  readonly #param: string;
  #values = 0;

  constructor(root: unknown, param: string) {
    this.#root = root;
    this.#param = param;
  }

  build(given: unknown, depth: number): unknown {
    this.#values += 1;
    if (depth > MAX_DEPTH || this.#values > MAX_VALUES)
      throw this.#refuse("has no finite smallest instance of reasonable size");
    if (given === true || given === undefined) return null;
    if (!isSchema(given)) throw this.#refuse("must be made of objects and true");
    const schema = given;
    if (typeof schema.$ref === "string") return this.build(this.#resolve(schema.$ref), depth + 1);
    if ("const" in schema) return schema.const;
    if (Array.isArray(schema.enum) && schema.enum.length > 0) return schema.enum[0];
    const choices = schema.anyOf ?? schema.oneOf;
    if (Array.isArray(choices) && choices.length > 0) return this.build(choices[0], depth + 1);
    if (Array.isArray(schema.allOf)) return this.build(merge(schema), depth + 1);
    return this.#ofType(schema, depth);
  }

  #ofType(schema: Schema, depth: number): unknown {
    switch (typeOf(schema)) {
      case "object":
        return this.#object(schema, depth);
      case "array":
        return this.#array(schema, depth);
      case "string":
        return this.#string(schema);
      case "integer":
      case "number":
        return this.#number(schema);
      case "boolean":
        return false;
      case "null":
        return null;
      default:
        throw this.#refuse(`has an unknown type ${JSON.stringify(schema.type)}`);
    }
  }

  /** The required properties, in the order of `properties`, then those that `properties` does not name. */
  #object(schema: Schema, depth: number): unknown {
    const properties = isSchema(schema.properties) ? schema.properties : {};
    const required = new Set(Array.isArray(schema.required) ? schema.required.map(String) : []);
    const names = [
      ...Object.keys(properties).filter((name) => required.has(name)),
      ...[...required].filter((name) => !Object.hasOwn(properties, name)),
    ];
    return Object.fromEntries(
      names.map((name) => [name, this.build(Object.hasOwn(properties, name) ? properties[name] : true, depth + 1)]),
    );
  }

  #array(schema: Schema, depth: number): unknown {
    const first = Array.isArray(schema.prefixItems) ? schema.prefixItems : [];
    const length = this.#bound(schema.minItems, "minItems");
    return Array.from({ length }, (_, i) => this.build(first[i] ?? schema.items, depth + 1));
  }

  #string(schema: Schema): unknown {
    if (schema.pattern !== undefined) throw this.#refuse("uses pattern, which the stub cannot fill");
    const format =
      typeof schema.format === "string" && Object.hasOwn(FORMATS, schema.format) ? FORMATS[schema.format] : undefined;
    return format ?? "a".repeat(this.#bound(schema.minLength, "minLength"));
  }

  /** 0 where it is allowed, else the allowed number next to it. */
  #number(schema: Schema): unknown {
    const step = typeof schema.multipleOf === "number" && schema.multipleOf > 0 ? schema.multipleOf : 1;
    const low = Math.max(numberOr(schema.minimum, -Infinity), above(schema.exclusiveMinimum, step));
    const high = Math.min(numberOr(schema.maximum, Infinity), -above(negated(schema.exclusiveMaximum), step));
    const value = low > 0 ? Math.ceil(low / step) * step : high < 0 ? Math.floor(high / step) * step : 0;
    if (value < low || value > high) throw this.#refuse("allows no number the stub can find");
    return value;
  }

  #bound(value: unknown, name: string): number {
    const bound = numberOr(value, 0);
    if (!Number.isInteger(bound) || bound < 0 || bound > MAX_LENGTH)
      throw this.#refuse(`has a ${name} beyond ${MAX_LENGTH}`);
    return bound;
  }

  #resolve(ref: string): unknown {
    if (ref !== "#" && !ref.startsWith("#/")) throw this.#refuse("may refer only to its own parts (#/…)");
    let at: unknown = this.#root;
    for (const part of ref.split("/").slice(1)) {
      const key = part.replaceAll("~1", "/").replaceAll("~0", "~");
      if (!isSchema(at) || !Object.hasOwn(at, key))
        throw this.#refuse(`refers to ${ref.slice(0, 100)}, which it does not have`);
      at = at[key];
    }
    return at;
  }

  #refuse(why: string): LLMPoolError {
    return new LLMPoolError("invalid_request", `${this.#param} ${why}`, { param: this.#param });
  }
}

function isSchema(value: unknown): value is Schema {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function typeOf(schema: Schema): unknown {
  if (Array.isArray(schema.type)) return schema.type[0];
  if (schema.type !== undefined) return schema.type;
  if (schema.properties !== undefined || schema.required !== undefined) return "object";
  if (schema.items !== undefined || schema.prefixItems !== undefined) return "array";
  return "null";
}

/** `allOf` as one schema: properties and required are joined, of everything else the last one counts. */
function merge(schema: Schema): Schema {
  const { allOf, ...rest } = schema;
  const merged: Schema = {};
  for (const part of [rest, ...(allOf as unknown[])]) {
    if (!isSchema(part)) continue;
    const properties = { ...(merged.properties as object | undefined), ...(part.properties as object | undefined) };
    const required = [
      ...((merged.required as unknown[] | undefined) ?? []),
      ...(Array.isArray(part.required) ? part.required : []),
    ];
    Object.assign(merged, part);
    if (Object.keys(properties).length > 0) merged.properties = properties;
    if (required.length > 0) merged.required = required;
  }
  return merged;
}

function numberOr(value: unknown, otherwise: number): number {
  return typeof value === "number" ? value : otherwise;
}

function negated(value: unknown): unknown {
  return typeof value === "number" ? -value : value;
}

/** The first multiple of `step` above an exclusive bound. */
function above(bound: unknown, step: number): number {
  return typeof bound === "number" ? (Math.floor(bound / step) + 1) * step : -Infinity;
}
