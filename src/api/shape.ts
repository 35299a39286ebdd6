import type { z } from "zod";
import { schemaAt } from "./defaults.ts";
import { nearest } from "./nearest.ts";
import { joinPath, type Problem } from "./problem.ts";
import type { Schema } from "./structural.ts";

type Issue = z.core.$ZodIssue;

/**
 * What zod found wrong with a value's shape, in words, with the cure: the same words for manifests and for the bodies of calls. `root` is
 * what is known of the schema, be it the names of its fields alone.
 */
export function explainIssue(issue: Issue, root: Schema): Problem[] {
  const schema = schemaAt(root, issue.path);
  if (issue.code === "unrecognized_keys")
    return issue.keys.map((key) => ({ path: joinPath([...issue.path, key]), message: unknownField(key, schema) }));
  const message = `${issue.input === undefined ? "is missing" : `is ${show(issue.input)}`}: ${cure(issue, schema)}`;
  return [{ path: joinPath(issue.path), message }];
}

function cure(issue: Issue, schema: Schema | undefined): string {
  // Zod's own texts begin with a capital letter. Those of our schemas do not, and say more than an issue does.
  if (!/^[A-Z]/.test(issue.message)) return issue.message;
  switch (issue.code) {
    case "invalid_type":
      return `write ${wanted(schema, issue.expected)}${quotes(issue)}`;
    case "invalid_value":
      return oneOf(issue.values, issue.input);
    case "invalid_union":
      return oneOf(("options" in issue && issue.options) || [], issue.input);
    case "too_small":
      return `write ${issue.inclusive === false ? "more than" : "at least"} ${amount(issue.minimum, issue.origin)}`;
    case "too_big":
      return `write ${issue.inclusive === false ? "less than" : "at most"} ${amount(issue.maximum, issue.origin)}`;
    case "invalid_key":
      return `its name: ${issue.issues.map((inner) => cure(inner, undefined)).join(", ")}`;
    default:
      return issue.message;
  }
}

function unknownField(key: string, schema: Schema | undefined): string {
  const known = Object.keys(schema?.properties ?? {});
  const guess = nearest(key, known);
  return `is not a field: ${guess === undefined ? `remove it, or write one of ${known.join(", ")}` : `did you mean ${guess}?`}`;
}

function oneOf(values: readonly unknown[], input: unknown): string {
  const texts = values.map(String);
  const guess = typeof input === "string" ? nearest(input, texts) : undefined;
  return `write ${texts.length === 1 ? "" : "one of "}${texts.join(", ")}${guess === undefined ? "" : `; did you mean ${guess}?`}`;
}

/** What belongs there, in words. The schema knows better than the issue: zod wants a number before it wants a whole one. */
function wanted(schema: Schema | undefined, expected: string): string {
  const fields = Object.keys(schema?.properties ?? {});
  switch (schema?.type ?? expected) {
    case "integer":
    case "int":
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
      return fields.length > 0 ? `an object with ${fields.slice(0, 4).join(", ")}…` : "an object";
  }
}

/** YAML reads `no` and `1` as something else than text. */
function quotes(issue: Issue): string {
  return "expected" in issue && issue.expected === "string" && ["boolean", "number"].includes(typeof issue.input)
    ? ", in quotes"
    : "";
}

function amount(limit: number | bigint, origin: string): string {
  const unit = { array: "item", string: "character" }[origin];
  return unit === undefined ? String(limit) : `${limit} ${unit}${limit === 1 ? "" : "s"}`;
}

function show(input: unknown): string {
  if (Array.isArray(input)) return "a list";
  if (typeof input === "object" && input !== null) return "an object";
  const text = typeof input === "string" ? JSON.stringify(input.slice(0, 81)) : String(input);
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}
