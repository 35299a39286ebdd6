import { anyOf, type GrammarBuilder, literal, repeat } from "./builder.ts";
import { fits } from "./fits.ts";
import { checkSize, isSchema, LIMITS, type Schema, SchemaError } from "./limits.ts";
import { numberExpression } from "./numbers.ts";
import { patternBody } from "./pattern.ts";

/**
 * Keywords that say what is not allowed in a way a grammar cannot follow. Others that are unknown here say nothing about validity
 * (annotations), or only forbid what is never written: a grammar describes fewer texts than the schema allows, and never others.
 */
const REFUSED = [
  ...["not", "if", "then", "else", "contains", "minContains", "maxContains", "propertyNames", "patternProperties"],
  ...[
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "uniqueItems",
    "multipleOf",
    "$dynamicRef",
    "$recursiveRef",
  ],
];

/** Keywords that forbid something. What else stands beside a `$ref` or alternatives changes nothing. */
const VALIDATING = new Set([
  ...REFUSED,
  ...["type", "const", "enum", "allOf", "anyOf", "oneOf", "pattern", "format", "minLength", "maxLength"],
  ...["properties", "required", "additionalProperties", "unevaluatedProperties", "minProperties", "maxProperties"],
  ...["items", "prefixItems", "minItems", "maxItems"],
  ...["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
]);
const restricts = (schema: Schema): boolean => Object.keys(schema).some((key) => VALIDATING.has(key));

const FORMATS: Record<string, string> = {
  date: '[0-9]{4} "-" ( "0" [1-9] | "1" [0-2] ) "-" ( "0" [1-9] | "1" [0-9] | "2" [0-8] )',
  time: '( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9] ":" [0-5] [0-9] ( "." [0-9]{1,6} )? ( "Z" | [+-] ( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9] )',
  uuid: 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
};
FORMATS["date-time"] = `${FORMATS.date} "T" ${FORMATS.time}`;

/** Characters of a long string are counted in blocks, so that a long limit costs few rules. */
const BLOCK = 64;

/** Compiles a JSON schema (2020-12, and what older drafts and OpenAPI write) to an expression of `grammar`. Throws SchemaError. */
export function compileSchema(schema: unknown, grammar: GrammarBuilder): string {
  checkSize(schema);
  return new SchemaCompiler(schema, grammar).visit(schema, "");
}

/** Bounds leave open how many digits come, and whether those so far are a bound's own. */
const NUMBER_WAYS = 10;

/** A schema that others refer to. */
interface Ref {
  readonly name: string;
  ways: number;
  /** The outermost schema around it that it refers back to, by its place among those that were being compiled. */
  backTo: number;
}

class SchemaCompiler {
  readonly #root: unknown;
  readonly #grammar: GrammarBuilder;
  readonly #refs = new Map<string, Ref>();
  /** Those that are being compiled, the outermost first. */
  readonly #open: Ref[] = [];
  #depth = 0;
  /** Places that the engine may have open at once inside of what was visited since somebody set this to 1. */
  #ways = 1;
  /** The outermost of `#open` that it refers back to, by its index. */
  #backTo = Number.POSITIVE_INFINITY;

  constructor(root: unknown, grammar: GrammarBuilder) {
    this.#root = root;
    this.#grammar = grammar;
  }

  visit(schema: unknown, path: string): string {
    if (schema === true) return "value";
    if (!isSchema(schema))
      throw new SchemaError(path, schema === false ? "false allows no value at all" : "it must be an object");
    this.#grammar.spend(4);
    if (++this.#depth > LIMITS.depth * 2) throw new SchemaError(path, "it refers to itself without an end");
    const expression = this.#visitOne(schema, path);
    this.#depth -= 1;
    return schema.nullable === true ? anyOf([expression, '"null"']) : expression;
  }

  #visitOne(schema: Schema, path: string): string {
    for (const key of REFUSED) {
      if (key in schema && !allowsAll(key, schema[key]))
        throw new SchemaError(`${path}/${key}`, "this keyword cannot be enforced");
    }
    const { $ref, ...beside } = schema;
    if (typeof $ref === "string") {
      return restricts(beside) ? this.visit(this.#merge(beside, { $ref }, path), path) : this.#ref($ref, path);
    }
    const { const: only, ...besideConst } = schema;
    if ("const" in schema) return this.#values([only], besideConst, `${path}/const`, path);
    if ("enum" in schema) return this.#enum(schema, path);
    if (Array.isArray(schema.allOf)) return this.visit(this.#allOf(schema, path), path);
    const choices = schema.anyOf ?? schema.oneOf;
    if (Array.isArray(choices)) return this.#choices(schema, choices, path);
    if (Array.isArray(schema.type)) {
      return this.#oneOf(
        schema.type.map((type) => () => this.visit({ ...schema, type }, path)),
        `${path}/type`,
      );
    }
    return this.#byType(schema, typeOf(schema), path);
  }

  #byType(schema: Schema, type: unknown, path: string): string {
    switch (type) {
      case undefined:
        return "value";
      case "object":
        return this.#object(schema, path);
      case "array":
        return this.#array(schema, path);
      case "string":
        return this.#string(schema, path);
      case "integer":
      case "number":
        return this.#number(schema, type, path);
      case "boolean":
        return '( "true" | "false" )';
      case "null":
        return '"null"';
      default:
        throw new SchemaError(`${path}/type`, `${JSON.stringify(type)} is no JSON type`);
    }
  }

  /** One rule per target, made once: so schemas may refer to themselves. */
  #ref(target: string, path: string): string {
    const known = this.#refs.get(target);
    if (known) {
      const at = this.#open.indexOf(known);
      this.#ways = Math.max(this.#ways, known.ways);
      this.#backTo = Math.min(this.#backTo, at >= 0 ? at : known.backTo);
      return known.name;
    }
    const ref: Ref = { name: this.#grammar.reserve("ref"), ways: 1, backTo: Number.POSITIVE_INFINITY };
    this.#refs.set(target, ref);
    const level = this.#open.push(ref) - 1;
    const inside = this.#measure(() => this.visit(this.#resolve(target, path), target.slice(1)));
    this.#open.pop();
    this.#grammar.define(ref.name, inside.expression);
    ref.ways = inside.ways;
    if (inside.backTo < level) ref.backTo = inside.backTo;
    this.#backTo = Math.min(this.#backTo, ref.backTo);
    return ref.name;
  }

  /** What one part is on its own; it counts in what it is a part of, too. */
  #measure(visit: () => string): { expression: string; ways: number; backTo: number } {
    const around = { ways: this.#ways, backTo: this.#backTo };
    this.#ways = 1;
    this.#backTo = Number.POSITIVE_INFINITY;
    const expression = visit();
    const inside = { expression, ways: this.#ways, backTo: this.#backTo };
    this.#ways = Math.max(around.ways, inside.ways);
    this.#backTo = Math.min(around.backTo, inside.backTo);
    return inside;
  }

  /**
   * One of several, of which the engine follows all that it cannot tell apart yet: their ways add up. Two of them that lead back to where
   * they stand would double with each level of what is written.
   */
  #oneOf(visits: readonly (() => string)[], path: string): string {
    checkChoices(visits.length, path);
    const level = this.#open.length;
    const choices = visits.map((visit) => this.#measure(visit));
    const distinct = [...new Map(choices.map((choice) => [choice.expression, choice])).values()].map((choice) => ({
      ...choice,
      head: this.#grammar.head(choice.expression),
    }));
    for (const { head, backTo } of distinct) {
      const alike = distinct.filter((other) => other.head.startsWith(head) || head.startsWith(other.head));
      const ways = alike.reduce((sum, other) => sum + other.ways, 0);
      if (ways > LIMITS.ways || (backTo < level && alike.filter((other) => other.backTo < level).length > 1)) {
        throw new SchemaError(
          path,
          "too many of its alternatives begin alike: begin each with a property whose const tells it from the others",
        );
      }
      this.#ways = Math.max(this.#ways, ways);
    }
    this.#literals(distinct.length);
    return anyOf(distinct.map(({ expression }) => expression));
  }

  /** Of `count` texts that differ, all but a few fall away with each character. */
  #literals(count: number): void {
    this.#ways = Math.max(this.#ways, Math.ceil(count / 6));
  }

  #resolve(ref: string, path: string): unknown {
    if (!ref.startsWith("#")) throw new SchemaError(`${path}/$ref`, `${ref} is not in this schema: write #/$defs/…`);
    let target: unknown = this.#root;
    for (const part of ref.slice(1).split("/").slice(1)) {
      const key = decodeURIComponent(part).replace(/~1/g, "/").replace(/~0/g, "~");
      target =
        typeof target === "object" && target !== null && Object.hasOwn(target, key)
          ? Reflect.get(target, key)
          : undefined;
    }
    if (target === undefined) throw new SchemaError(`${path}/$ref`, `there is no ${ref}`);
    return target;
  }

  #enum(schema: Schema, path: string): string {
    const { enum: values, ...beside } = schema;
    if (!Array.isArray(values) || values.length === 0)
      throw new SchemaError(`${path}/enum`, "it must be a list with at least one value");
    return this.#values(values, beside, `${path}/enum`, path);
  }

  /** Those that all the keywords beside them allow, too. */
  #values(values: readonly unknown[], beside: Schema, where: string, path: string): string {
    checkChoices(values.length, where);
    const world = {
      resolve: (ref: string, at: string) => this.#resolve(ref, at),
      spend: (steps: number) => this.#grammar.spend(steps),
    };
    const allowed = restricts(beside) ? values.filter((value) => fits(value, beside, path, world)) : values;
    if (allowed.length === 0) throw new SchemaError(where, "the keywords beside it allow no value of it");
    this.#literals(allowed.length);
    return anyOf(allowed.map((value) => literal(JSON.stringify(value))));
  }

  #choices(schema: Schema, choices: readonly unknown[], path: string): string {
    const { [schema.anyOf === choices ? "anyOf" : "oneOf"]: _choices, $defs: _defs, ...base } = schema;
    if (choices.length === 0) throw new SchemaError(path, "anyOf and oneOf need at least one schema");
    const merges = restricts(base);
    return this.#oneOf(
      choices.map((choice, i) => () => {
        return this.visit(merges ? this.#merge(base, choice, path) : choice, `${path}/anyOf/${i}`);
      }),
      path,
    );
  }

  #allOf(schema: Schema, path: string): Schema {
    const { allOf, ...base } = schema;
    return (allOf as readonly unknown[]).reduce<Schema>(
      (merged, part) => this.#merge(merged, part, `${path}/allOf`),
      base,
    );
  }

  /** Both at once, as far as that can be written as one schema. */
  #merge(a: Schema, b: unknown, path: string): Schema {
    if (b === true) return a;
    if (!isSchema(b)) throw new SchemaError(path, "its parts must be objects");
    const { $ref, ...beside } = b;
    if (typeof $ref !== "string") return this.#join(a, b, path);
    const target = this.#resolve($ref, path);
    if (!isSchema(target)) throw new SchemaError(path, "its parts must be objects");
    return this.#join(this.#join(a, target, path), beside, path);
  }

  /** @param a the schema that `b` is a part of, with the parts before it. */
  #join(a: Schema, b: Schema, path: string): Schema {
    // What is not evaluated in a part is what it does not declare itself; in the whole, what no part does.
    const { unevaluatedProperties, ...rest } = b;
    const part = unevaluatedProperties === undefined ? b : { additionalProperties: unevaluatedProperties, ...rest };
    checkOthers(a, part, path);
    checkOthers(part, a, path);
    this.#grammar.spend(keysOf(a) + keysOf(part));
    const merged: Record<string, unknown> = { ...a };
    for (const [key, value] of Object.entries(part)) {
      const had = merged[key];
      if (had === undefined || ANNOTATIONS.has(key)) merged[key] = value;
      else if (key === "properties" && isSchema(had) && isSchema(value))
        merged[key] = this.#mergeProperties(had, value, path);
      else if (key === "required" && Array.isArray(had) && Array.isArray(value)) merged[key] = [...had, ...value];
      else if (key === "enum" && Array.isArray(had) && Array.isArray(value)) {
        const texts = new Set(had.map((one) => JSON.stringify(one)));
        merged[key] = value.filter((one) => texts.has(JSON.stringify(one)));
      } else if (JSON.stringify(had) !== JSON.stringify(value)) throw new SchemaError(path, `two parts set ${key}`);
    }
    // Null is a value of both only when neither forbids it.
    if (a.nullable !== part.nullable && restricts(a) && restricts(part)) delete merged.nullable;
    return merged;
  }

  #mergeProperties(a: Schema, b: Schema, path: string): Schema {
    const both = Object.keys(a).find((key) => key in b && JSON.stringify(a[key]) !== JSON.stringify(b[key]));
    if (both !== undefined) throw new SchemaError(path, `two parts define the property ${both}`);
    return { ...a, ...b };
  }

  /** Declared properties in their order; others only where none is declared. */
  #object(schema: Schema, path: string): string {
    const properties = isSchema(schema.properties) ? schema.properties : {};
    const required = new Set(Array.isArray(schema.required) ? schema.required.map(String) : []);
    const names = [...new Set([...Object.keys(properties), ...required])];
    const [least, most] = [
      countOf(schema.minProperties, 0, path),
      countOf(schema.maxProperties, Number.POSITIVE_INFINITY, path),
    ];
    if (names.length === 0) return this.#map(schema, least, most, path);
    if (least > required.size || most < names.length) {
      throw new SchemaError(path, "minProperties and maxProperties cannot be enforced beside properties: use required");
    }
    const optionals = names.filter((name) => !required.has(name)).length;
    checkChoices(optionals, `${path}/properties`);
    this.#literals(optionals);
    // `rest` is what may follow when something stands in front of it, `first` when nothing does.
    let rest = '""';
    let first = '""';
    for (const name of names.toReversed()) {
      const declared = Object.hasOwn(properties, name);
      const value = this.visit(declared ? properties[name] : others(schema), `${path}/properties/${name}`);
      const member = this.#grammar.rule("member", `${literal(JSON.stringify(name))} ":" ws ${value}`);
      const after = this.#grammar.rule("rest", rest);
      const optional = !required.has(name);
      rest = optional ? `"," ws ${member} ${after} | ${after}` : `"," ws ${member} ${after}`;
      first = optional ? `${member} ${after} | ${this.#grammar.rule("first", first)}` : `${member} ${after}`;
    }
    return this.#grammar.rule("object", `"{" ${this.#grammar.rule("first", first)} "}"`);
  }

  /** An object with any keys. */
  #map(schema: Schema, least: number, most: number, path: string): string {
    if (others(schema) === false) {
      if (least > 0) throw new SchemaError(path, "it allows no property but wants some");
      return '"{" "}"';
    }
    const value = this.visit(others(schema), `${path}/additionalProperties`);
    return this.#list("{", this.#grammar.rule("entry", `string ":" ws ${value}`), "}", least, most, path);
  }

  #array(schema: Schema, path: string): string {
    const [least, most] = [countOf(schema.minItems, 0, path), countOf(schema.maxItems, Number.POSITIVE_INFINITY, path)];
    const fixed = Array.isArray(schema.prefixItems) ? schema.prefixItems : [];
    if (least > most) throw new SchemaError(`${path}/minItems`, `it is more than maxItems, ${most}`);
    if (fixed.length === 0) {
      const item = this.#grammar.rule("item", this.visit(schema.items ?? true, `${path}/items`));
      return this.#list("[", item, "]", least, most, path);
    }
    if (least > fixed.length)
      throw new SchemaError(`${path}/minItems`, "more items than prefixItems cannot be enforced");
    const items = fixed
      .slice(0, Math.min(most, fixed.length))
      .map((item, i) => this.visit(item, `${path}/prefixItems/${i}`));
    return this.#grammar.rule("tuple", `"[" ${items.join(' "," ws ')} "]"`);
  }

  #list(open: string, item: string, close: string, least: number, most: number, path: string): string {
    if (least > most || least > LIMITS.repeat)
      throw new SchemaError(path, `it wants ${least} of at most ${Math.min(most, LIMITS.repeat)}`);
    const upTo = most === Number.POSITIVE_INFINITY ? most : Math.min(most, LIMITS.repeat);
    if (upTo === 0) return `"${open}" "${close}"`;
    const more = repeat(this.#grammar.rule("more", `"," ws ${item}`), Math.max(0, least - 1), upTo - 1);
    const items = `${item} ${more}`;
    return this.#grammar.rule("list", `"${open}" ${least === 0 ? `( ${items} )?` : items} "${close}"`);
  }

  #number(schema: Schema, type: "integer" | "number", path: string): string {
    this.#grammar.spend(32);
    const expression = numberExpression(schema, type, path);
    if (expression === type) return type;
    this.#ways = Math.max(this.#ways, NUMBER_WAYS);
    return this.#grammar.rule("number", expression);
  }

  #string(schema: Schema, path: string): string {
    const lengths = "minLength" in schema || "maxLength" in schema;
    if (typeof schema.pattern === "string") {
      if (lengths)
        throw new SchemaError(path, "pattern and a length cannot both be enforced: put the length into the pattern");
      const { body, ways } = patternBody(schema.pattern, this.#grammar, `${path}/pattern`);
      this.#ways = Math.max(this.#ways, ways);
      return this.#quoted(body);
    }
    const format =
      typeof schema.format === "string" && Object.hasOwn(FORMATS, schema.format) ? FORMATS[schema.format] : undefined;
    if (format !== undefined && !lengths) return this.#quoted(format);
    if (!lengths) return "string";
    const least = countOf(schema.minLength, 0, path);
    const most = countOf(schema.maxLength, Number.POSITIVE_INFINITY, path);
    if (least > most || least > LIMITS.repeat)
      throw new SchemaError(path, `minLength may be at most ${Math.min(most, LIMITS.repeat)}`);
    return this.#quoted(this.#chars(least, most));
  }

  #chars(least: number, most: number): string {
    if (most === Number.POSITIVE_INFINITY || most <= LIMITS.repeat) return repeat("unit", least, most);
    const blocks = Math.min(LIMITS.repeat, Math.floor((most - least) / BLOCK) - 1);
    const block = this.#grammar.rule("block", `unit{${BLOCK}}`);
    return `${least > 0 ? `unit{${least}} ` : ""}${repeat(block, 0, blocks)} unit{0,${BLOCK - 1}}`;
  }

  #quoted = (body: string): string => this.#grammar.rule("string", `"\\"" ${body} "\\""`);
}

/** What properties may hold that are not declared. */
const others = (schema: Schema): unknown => schema.additionalProperties ?? schema.unevaluatedProperties ?? true;

/** Throws when `one` says something about undeclared properties that `other` declares: joined, it would be forgotten. */
function checkOthers(one: Schema, other: Schema, path: string): void {
  if ((one.additionalProperties ?? true) === true || !isSchema(other.properties)) return;
  const declared = isSchema(one.properties) ? one.properties : {};
  const name = Object.keys(other.properties).find((key) => !Object.hasOwn(declared, key));
  if (name === undefined) return;
  throw new SchemaError(path, `additionalProperties of one part is about the property ${name} of another`);
}

function checkChoices(count: number, path: string): void {
  if (count > LIMITS.choices)
    throw new SchemaError(path, `${count} choices in one place are more than ${LIMITS.choices}, the most here`);
}

function countOf(value: unknown, fallback: number, path: string): number {
  if (value === undefined) return fallback;
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0)
    throw new SchemaError(path, "counts must be whole numbers, not negative");
  return value;
}

function typeOf(schema: Schema): unknown {
  if (schema.type !== undefined) return schema.type;
  if ("properties" in schema || "required" in schema || "additionalProperties" in schema) return "object";
  if ("minProperties" in schema || "maxProperties" in schema || "unevaluatedProperties" in schema) return "object";
  if ("items" in schema || "prefixItems" in schema || "minItems" in schema || "maxItems" in schema) return "array";
  if ("pattern" in schema || "minLength" in schema || "maxLength" in schema) return "string";
  if ("minimum" in schema || "maximum" in schema || "exclusiveMinimum" in schema || "exclusiveMaximum" in schema)
    return "number";
  return undefined;
}

/** Keys that a merge copies: its own, and those of its lists and properties. */
function keysOf(schema: Schema): number {
  return Object.values(schema).reduce<number>(
    (sum, value) => sum + (typeof value === "object" && value !== null ? Object.keys(value).length : 1),
    0,
  );
}

const ANNOTATIONS = new Set([
  "title",
  "description",
  "default",
  "examples",
  "$comment",
  "$defs",
  "definitions",
  "$schema",
  "$id",
]);

/** A refused keyword with a value that forbids nothing. */
const allowsAll = (key: string, value: unknown): boolean =>
  (key === "uniqueItems" && value === false) ||
  (key === "multipleOf" && value === 1) ||
  (key === "minContains" && value === 0);
