import { LLMPool } from "../../src/api/llmpool.ts";
import { type Schema, structural } from "../../src/api/structural.ts";

/** Tables of all fields and rules, in Markdown, for docs/resource.md. */
export function resourceTables(): string {
  const { spec = {}, status = {} } = structural(LLMPool).properties ?? {};
  return [
    "### spec",
    table(rows(spec, "")),
    "### status",
    table(rows(status, "")),
    "### Rules between fields",
    "A manifest that breaks one is refused with this text, by a cluster and by `llmpool validate` alike. Where it is about items of a list, `validate` says besides which ones.",
    [...new Set(messages(structural(LLMPool)))].map((message) => `- ${inCell(message)}`).join("\n"),
  ].join("\n\n");
}

interface Row {
  path: string;
  type: string;
  fallback: string;
  about: string;
}

function rows(schema: Schema, path: string): Row[] {
  const required = new Set(schema.required);
  return Object.entries(schema.properties ?? {}).flatMap(([name, field]) => {
    const at = path === "" ? name : `${path}.${name}`;
    const item = field.items;
    // A variant repeats the fields of spec.
    const again = /^variants\[\]\.(model|resources|gpu)$/.test(at);
    const inner = again ? [] : rows(item ?? field, item ? `${at}[]` : at);
    const about = (field.description ?? "") + (again ? " The same fields as spec's." : "");
    return [
      { path: at, type: typeOf(field), fallback: required.has(name) ? "**required**" : fallback(field), about },
      ...inner,
    ];
  });
}

function fallback({ default: value, type }: Schema): string {
  if (value === undefined || type === "object") return "";
  return `\`${JSON.stringify(value)}\``;
}

function typeOf(schema: Schema): string {
  if (schema["x-kubernetes-int-or-string"]) return "quantity";
  if (schema["x-kubernetes-preserve-unknown-fields"]) return "object, free";
  if (schema.enum) return schema.enum.map((one) => `\`${one}\``).join(", ");
  if (schema.type === "array") return `list, at most ${schema.maxItems}`;
  if (schema.additionalProperties)
    return `map to ${typeOf(schema.additionalProperties)}, at most ${schema.maxProperties}`;
  if (schema.type === "string") return schema.maxLength === undefined ? "text" : `text, at most ${schema.maxLength}`;
  if (schema.minimum === undefined) return schema.type ?? "";
  return schema.maximum === undefined || schema.maximum === Number.MAX_SAFE_INTEGER
    ? `${schema.type}, at least ${schema.minimum}`
    : `${schema.type}, ${schema.minimum} to ${schema.maximum}`;
}

function table(list: Row[]): string {
  const lines = list.map(
    ({ path, type, fallback, about }) => `| \`${path}\` | ${type} | ${fallback} | ${inCell(about)} |`,
  );
  return ["| field | type | default | |", "| --- | --- | --- | --- |", ...lines].join("\n");
}

/** Text that Markdown would read as a link, a tag or the end of a cell. */
function inCell(text: string): string {
  return text.replace(/[|<[\]]/g, "\\$&");
}

function messages(schema: Schema): string[] {
  const inner = [...Object.values(schema.properties ?? {}), schema.items, schema.additionalProperties].filter(
    (s) => s !== undefined,
  );
  return [...(schema["x-kubernetes-validations"] ?? []).map((rule) => rule.message), ...inner.flatMap(messages)];
}
