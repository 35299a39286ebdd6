import { Environment, type ParseResult } from "@marcbachmann/cel-js";
import { isObject } from "./defaults.ts";
import type { Rule } from "./fields.ts";
import { joinPath, type Problem } from "./problem.ts";
import type { Schema } from "./structural.ts";

/**
 * Evaluates the `x-kubernetes-validations` of a schema on a value that has its shape and its defaults, as an API server does: on every
 * object, list, map value and field that a rule stands at.
 */
export function checkRules(value: unknown, schema: Schema): Problem[] {
  const problems: Problem[] = [];
  walk(value, schema, [], problems);
  return problems;
}

function walk(value: unknown, schema: Schema, path: PropertyKey[], problems: Problem[]): void {
  for (const rule of schema["x-kubernetes-validations"] ?? []) {
    const message = broken(rule, value);
    if (message !== undefined) problems.push({ path: joinPath(path) + (rule.fieldPath ?? ""), message });
  }
  if (Array.isArray(value)) {
    value.forEach((item, index) => {
      if (schema.items) walk(item, schema.items, [...path, index], problems);
    });
  } else if (isObject(value)) {
    for (const [key, inner] of Object.entries(value)) {
      const child = schema.properties ? schema.properties[key] : schema.additionalProperties;
      if (child) walk(inner, child, [...path, key], problems);
    }
  }
}

const environment = new Environment({ unlistedVariablesAreDyn: true });
const compiled = new Map<string, ParseResult>();

function broken({ rule, message }: Rule, self: unknown): string | undefined {
  const program = compiled.get(rule) ?? environment.parse(rule);
  compiled.set(rule, program);
  try {
    return program({ self: toCel(self) }) === true ? undefined : message;
  } catch (error) {
    // An API server refuses too when a rule cannot be evaluated.
    return `${message} (${error instanceof Error ? error.message.split("\n")[0] : error})`;
  }
}

/** CEL's int is 64 bits wide; JSON's whole numbers are ints. */
function toCel(value: unknown): unknown {
  if (typeof value === "number") return Number.isSafeInteger(value) ? BigInt(value) : value;
  if (Array.isArray(value)) return value.map(toCel);
  if (isObject(value)) return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, toCel(inner)]));
  return value;
}
