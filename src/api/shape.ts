import type { z } from "zod";
import { schemaAt } from "./defaults.ts";
import { nearest } from "./nearest.ts";
import { joinPath, type Problem } from "./problem.ts";
import type { Schema } from "./structural.ts";

/** What zod found wrong with a value's shape, in words, with the cure. */
export function explainIssue(issue: z.core.$ZodIssue, root: Schema): Problem[] {
  const schema = schemaAt(root, issue.path);
  const path = joinPath(issue.path);
  const is = `is ${show(issue.input)}`;
  switch (issue.code) {
    case "unrecognized_keys":
      return issue.keys.map((key) => ({ path: joinPath([...issue.path, key]), message: unknownField(key, schema) }));
    case "invalid_type":
    case "invalid_union":
      if (issue.input === undefined) return [{ path, message: `is missing: write ${wanted(schema)}` }];
      return [{ path, message: `${is}: write ${wanted(schema)}${quotes(issue.input, schema)}` }];
    case "invalid_value": {
      if (issue.input === undefined) return [{ path, message: `is missing: write ${wanted(schema)}` }];
      const guess = nearest(String(issue.input), issue.values.map(String));
      return [
        { path, message: `${is}: write ${wanted(schema)}${guess === undefined ? "" : `; did you mean ${guess}?`}` },
      ];
    }
    case "too_small":
      return [{ path, message: `${is}: write at least ${issue.minimum}` }];
    case "too_big":
      return [{ path, message: `${is}: write at most ${issue.maximum}${issue.origin === "array" ? " items" : ""}` }];
    default:
      return [{ path, message: `${is}: ${issue.message}` }];
  }
}

function unknownField(key: string, schema: Schema | undefined): string {
  const known = Object.keys(schema?.properties ?? {});
  const guess = nearest(key, known);
  return `is not a field: ${guess === undefined ? `remove it, or write one of ${known.join(", ")}` : `did you mean ${guess}?`}`;
}

/** What belongs there, in words. */
function wanted(schema: Schema | undefined): string {
  if (schema?.["x-kubernetes-int-or-string"]) return 'an amount such as "12Gi", "500m" or 2';
  if (schema?.enum) return schema.enum.length === 1 ? String(schema.enum[0]) : `one of ${schema.enum.join(", ")}`;
  switch (schema?.type) {
    case "integer":
      return "a whole number";
    case "number":
      return "a number";
    case "boolean":
      return "true or false";
    case "string":
      return "a text";
    case "array":
      return "a list";
    default:
      return schema?.properties
        ? `an object with ${Object.keys(schema.properties).slice(0, 4).join(", ")}…`
        : "an object";
  }
}

/** YAML reads `no` and `1` as something else than text. */
function quotes(input: unknown, schema: Schema | undefined): string {
  return schema?.type === "string" && ["boolean", "number"].includes(typeof input) ? ", in quotes" : "";
}

function show(input: unknown): string {
  if (Array.isArray(input)) return "a list";
  if (typeof input === "object" && input !== null) return "an object";
  const text = typeof input === "string" ? JSON.stringify(input) : String(input);
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}
