import { isDeepStrictEqual } from "node:util";
import { isSchema, LIMITS, type Schema, SchemaError } from "./limits.ts";

interface World {
  /** What a `$ref` means. Throws SchemaError. */
  resolve(ref: string, path: string): unknown;
  /** Counts a step of the compiler. Throws SchemaError when there were too many. */
  spend(steps: number): void;
}

/**
 * Whether a value of `const` or `enum` is one that the keywords beside it allow, too. Throws SchemaError for a keyword that cannot be told
 * here: `pattern`, as a caller's expression could take for ever, and what no schema may have.
 */
export function fits(value: unknown, schema: unknown, path: string, world: World, depth = 0): boolean {
  if (typeof schema === "boolean") return schema;
  if (!isSchema(schema)) throw new SchemaError(path, "it must be an object");
  world.spend(1 + (Array.isArray(schema.enum) ? schema.enum.length : 0));
  if (depth > LIMITS.depth * 2) throw new SchemaError(path, "it refers to itself without an end");
  const inside = (part: unknown, of: unknown = value) => fits(of, part, path, world, depth + 1);
  if (value === null && schema.nullable === true) return true;
  if (typeof schema.$ref === "string" && !inside(world.resolve(schema.$ref, path))) return false;
  if ("const" in schema && !isDeepStrictEqual(schema.const, value)) return false;
  if (Array.isArray(schema.enum) && !schema.enum.some((one) => isDeepStrictEqual(one, value))) return false;
  if (schema.type !== undefined && ![schema.type].flat().some((type) => isOf(type, value))) return false;
  if (Array.isArray(schema.allOf) && !schema.allOf.every((part) => inside(part))) return false;
  if (Array.isArray(schema.anyOf) && !schema.anyOf.some((part) => inside(part))) return false;
  if (Array.isArray(schema.oneOf) && schema.oneOf.filter((part) => inside(part)).length !== 1) return false;
  if (typeof value === "number") return isWithin(value, schema);
  if (typeof value === "string") return isText(value, schema, path);
  if (Array.isArray(value)) return isList(value, schema, inside);
  return value === null || typeof value !== "object" || isObject(value as Schema, schema, inside);
}

type Inside = (part: unknown, of: unknown) => boolean;

function isOf(type: unknown, value: unknown): boolean {
  if (type === "integer") return Number.isInteger(value);
  if (type === "array") return Array.isArray(value);
  if (type === "null") return value === null;
  // The other types have the names that JavaScript's have.
  return type === "object" ? isSchema(value) : typeof value === type;
}

/** Of two numbers, or of what an old draft writes (`exclusiveMinimum: true`). */
function isWithin(value: number, { minimum, maximum, exclusiveMinimum: above, exclusiveMaximum: below }: Schema) {
  const low = typeof minimum === "number" ? minimum : Number.NEGATIVE_INFINITY;
  const high = typeof maximum === "number" ? maximum : Number.POSITIVE_INFINITY;
  return (
    value >= low &&
    value <= high &&
    !(above === true && value === low) &&
    !(below === true && value === high) &&
    !(typeof above === "number" && value <= above) &&
    !(typeof below === "number" && value >= below)
  );
}

function isText(value: string, { pattern, minLength, maxLength }: Schema, path: string): boolean {
  if (pattern !== undefined)
    throw new SchemaError(`${path}/pattern`, "a pattern beside const or enum cannot be enforced: leave it out");
  return isCount([...value].length, minLength, maxLength);
}

function isList(value: readonly unknown[], schema: Schema, inside: Inside): boolean {
  const first: readonly unknown[] = Array.isArray(schema.prefixItems) ? schema.prefixItems : [];
  return (
    isCount(value.length, schema.minItems, schema.maxItems) &&
    value.every((item, i) => inside(i < first.length ? first[i] : (schema.items ?? true), item))
  );
}

function isObject(value: Schema, schema: Schema, inside: Inside): boolean {
  const properties = isSchema(schema.properties) ? schema.properties : {};
  const required = Array.isArray(schema.required) ? schema.required.map(String) : [];
  const other = schema.additionalProperties ?? schema.unevaluatedProperties ?? true;
  return (
    isCount(Object.keys(value).length, schema.minProperties, schema.maxProperties) &&
    required.every((name) => Object.hasOwn(value, name)) &&
    Object.entries(value).every(([name, of]) => inside(Object.hasOwn(properties, name) ? properties[name] : other, of))
  );
}

const isCount = (count: number, least: unknown, most: unknown): boolean =>
  !(typeof least === "number" && count < least) && !(typeof most === "number" && count > most);
