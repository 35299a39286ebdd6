import { Environment, type ParseResult } from "@marcbachmann/cel-js";
import { isObject } from "./defaults.ts";
import { itemRuleOf } from "./each.ts";
import type { Rule } from "./fields.ts";
import { nearest } from "./nearest.ts";
import { joinPath, type Problem } from "./problem.ts";
import type { Schema } from "./structural.ts";

/**
 * Stands in a value for a part of which nothing is known. To touch it is an error, and CEL's own logic says what is true without it:
 * `true || error` is true. So a rule is broken only when it is so whatever comes in that place.
 */
export const UNKNOWN = Symbol("unknown");

interface Broken {
  /** Where the rule stands. */
  path: PropertyKey[];
  rule: Rule;
  /** What stands there. */
  self: unknown;
  /** Why it could not be evaluated. */
  error?: string;
}

/**
 * Evaluates the `x-kubernetes-validations` of a schema on a value that has its shape and its defaults, as an API server does: on every
 * object, list, map value and field that a rule stands at.
 */
export function brokenRules(value: unknown, schema: Schema): Broken[] {
  const found: Broken[] = [];
  walk(value, schema, [], found);
  return found;
}

/** A broken rule in words; a rule on items, for each item that breaks it. */
export function explainRule({ path, rule, self, error }: Broken): Problem[] {
  const whole = joinPath(path) + (rule.fieldPath ?? "");
  if (error !== undefined) return [{ path: whole, message: `${rule.message} (${error})` }];
  const item = itemRuleOf(rule);
  if (!item) return [{ path: whole, message: rule.message }];
  const { of, as, holds, kind, field, isTold, says, known } = item;
  const steps = of.split(".").slice(1);
  const list = at(self, steps);
  const items: [PropertyKey, unknown][] = Array.isArray(list)
    ? [...list.entries()]
    : Object.keys(list as object).map((key) => [key, key]);
  return items.flatMap(([key, one]) => {
    if (one === UNKNOWN || evaluate(holds, { self, [as]: one }) !== false) return [];
    const name = at(one, ["name"]);
    const value = field === undefined ? one : at(one, field.split("."));
    const guess = known && typeof value === "string" ? nearest(value, known(self)) : undefined;
    const words = [
      kind !== undefined && typeof name === "string" && `${kind} ${name}:`,
      isTold && `${field} ${value}`,
      guess === undefined ? says : `${says}; did you mean ${guess}?`,
    ];
    return [
      {
        path: joinPath([...path, ...steps, key, ...(field?.split(".") ?? [])]),
        message: words.filter(Boolean).join(" "),
      },
    ];
  });
}

function walk(value: unknown, schema: Schema, path: PropertyKey[], found: Broken[]): void {
  if (value === UNKNOWN) return;
  for (const rule of schema["x-kubernetes-validations"] ?? []) {
    try {
      if (evaluate(rule.rule, { self: value }) === false) found.push({ path, rule, self: value });
    } catch (error) {
      // An API server refuses too when a rule cannot be evaluated.
      const why = error instanceof Error ? error.message.split("\n")[0] : error;
      found.push({ path, rule, self: value, error: String(why) });
    }
  }
  if (Array.isArray(value)) {
    value.forEach((item, index) => {
      if (schema.items) walk(item, schema.items, [...path, index], found);
    });
  } else if (isObject(value)) {
    for (const [key, inner] of Object.entries(value)) {
      const child = schema.properties ? schema.properties[key] : schema.additionalProperties;
      if (child) walk(inner, child, [...path, key], found);
    }
  }
}

const environment = new Environment({ unlistedVariablesAreDyn: true });
const compiled = new Map<string, ParseResult>();

/** Whether the condition holds. Undefined: that depends on what is UNKNOWN. Throws what CEL throws. */
function evaluate(condition: string, variables: Record<string, unknown>): boolean | undefined {
  const program = compiled.get(condition) ?? environment.parse(condition);
  compiled.set(condition, program);
  let isTouched = false;
  const touch = () => {
    isTouched = true;
    throw new Error("unknown");
  };
  try {
    return program(toCel(variables, touch) as Record<string, unknown>) === true;
  } catch (error) {
    if (isTouched) return undefined;
    throw error;
  }
}

/** CEL's int is 64 bits wide; JSON's whole numbers are ints. */
function toCel(value: unknown, touch: () => never): unknown {
  if (typeof value === "number") return Number.isSafeInteger(value) ? BigInt(value) : value;
  if (typeof value !== "object" || value === null) return value;
  const copy: object = Array.isArray(value) ? [] : {};
  for (const [key, inner] of Object.entries(value)) {
    const property = inner === UNKNOWN ? { get: touch } : { value: toCel(inner, touch) };
    Object.defineProperty(copy, key, { ...property, enumerable: true });
  }
  return copy;
}

function at(value: unknown, path: readonly string[]): unknown {
  return path.reduce((inner, step) => (isObject(inner) ? inner[step] : undefined), value);
}
