import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { dump } from "js-yaml";
import { z } from "zod";
import { RIGHTS, WIDE_RIGHTS } from "../../../operator/rights.ts";
import { customResourceDefinition } from "../crd.ts";
import { Values } from "./values.ts";

interface Package {
  version: string;
  description: string;
  license: string;
}

/** Chart.yaml: the chart has the package's version, and so have the images it installs. */
export function chartManifest(): object {
  const path = resolve(import.meta.dirname, "../../../package.json");
  const { version, description } = JSON.parse(readFileSync(path, "utf8")) as Package;
  return {
    apiVersion: "v2",
    name: "llmpool",
    description,
    type: "application",
    version,
    appVersion: version,
    kubeVersion: ">=1.31.0-0",
  };
}

/** The CRD as a file of the chart, which a template includes: uninstalling the release keeps it, and with it every pool. */
export function keptDefinition(): object {
  const { metadata, ...crd } = customResourceDefinition() as { metadata: object };
  return { ...crd, metadata: { ...metadata, annotations: { "helm.sh/resource-policy": "keep" } } };
}

/** The rules of the operator's role, as a file that a template includes. */
export function roleRules(): object {
  return { rules: RIGHTS };
}

/** The rules of what has no namespace, which only an operator of all namespaces gets. */
export function wideRules(): object {
  return { rules: WIDE_RIGHTS };
}

/** What a value may be, in JSON schema. Helm puts `global` into every chart that is part of another. */
export function valuesSchema(): object {
  const { $schema, properties, ...schema } = z.toJSONSchema(Values, { target: "draft-7", io: "input" });
  return { $schema, ...schema, properties: { ...properties, global: { type: "object" } } };
}

interface Field {
  description?: string;
  default?: unknown;
  properties?: Record<string, Field>;
}

/** One value with its place in the tree: `image.tag`. */
export interface Value {
  path: string;
  about: string;
  fallback: unknown;
}

function fields(): Record<string, Field> {
  return (z.toJSONSchema(Values, { io: "output" }) as Field).properties ?? {};
}

/** Every value of the chart, in its order. */
export function chartValues(of = fields(), path = ""): Value[] {
  return Object.entries(of).flatMap(([name, field]) => {
    const at = path === "" ? name : `${path}.${name}`;
    if (field.properties) return chartValues(field.properties, at);
    return [{ path: at, about: field.description ?? "", fallback: field.default }];
  });
}

/** values.yaml: every default, with what it is for above it. */
export function valuesFile(of = fields(), depth = 0): string {
  const indent = "  ".repeat(depth);
  return Object.entries(of)
    .map(([name, { description, default: fallback, properties }]) => {
      if (properties) return `${indent}${name}:\n${valuesFile(properties, depth + 1)}`;
      const value = dump({ [name]: fallback }, { lineWidth: -1 }).replaceAll(/^(?=.)/gm, indent);
      return `${indent}# ${description}\n${value}`;
    })
    .join(depth === 0 ? "\n" : "");
}

/** The values as a table, for docs/helm.md. */
export function valuesTable(): string {
  const rows = chartValues().map(
    ({ path, about, fallback }) =>
      `| \`${path}\` | \`${JSON.stringify(fallback)}\` | ${about.replaceAll("|", "\\|")} |`,
  );
  return ["| value | default | |", "| --- | --- | --- |", ...rows].join("\n");
}
