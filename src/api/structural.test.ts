import fc from "fast-check";
import { expect, test } from "vitest";
import { z } from "zod";
import { fromSchema } from "../../test/support/from-schema.ts";
import { applyDefaults } from "./defaults.ts";
import { LLMPool, LLMPoolSpec } from "./llmpool.ts";
import { type Schema, structural } from "./structural.ts";

const fields: { path: string; schema: Schema; isField: boolean }[] = [];
collect("", structural(LLMPool), true);

function collect(path: string, schema: Schema, isField: boolean): void {
  if (path.startsWith("metadata")) return; // Kubernetes' own
  fields.push({ path, schema, isField });
  for (const [name, inner] of Object.entries(schema.properties ?? {}))
    collect(path === "" ? name : `${path}.${name}`, inner, true);
  if (schema.items) collect(`${path}[]`, schema.items, false);
  if (schema.additionalProperties) collect(`${path}{}`, schema.additionalProperties, false);
}

const failing = (bad: (schema: Schema) => boolean) =>
  fields.filter(({ schema }) => bad(schema)).map(({ path }) => path);

test("every field is described, for kubectl explain", () => {
  const bare = fields.filter(
    ({ path, schema, isField }) => isField && path !== "apiVersion" && path !== "kind" && !schema.description,
  );
  expect(bare.map(({ path }) => path)).toEqual([]);
});

test("every text, list, map and number is bounded, so that rules have a cost", () => {
  expect(failing((s) => s.type === "string" && s.enum === undefined && s.maxLength === undefined)).toEqual([]);
  expect(failing((s) => s.type === "array" && s.maxItems === undefined)).toEqual([]);
  expect(failing((s) => s.additionalProperties !== undefined && s.maxProperties === undefined)).toEqual([]);
  const unbounded = failing(
    (s) => (s.type === "integer" || s.type === "number") && (s.minimum === undefined || s.maximum === undefined),
  );
  // Measured, by us.
  expect(unbounded).toEqual(["status.instanceStatuses[].warmupSeconds", "status.instanceStatuses[].tokensPerSecond"]);
});

test("an object with defaults inside has a default of its own, or they would never be filled in", () => {
  const hasDefaults = (s: Schema): boolean =>
    s.default !== undefined || Object.values(s.properties ?? {}).some(hasDefaults);
  const lost = failing(
    (s) => s.type === "object" && s.default === undefined && Object.values(s.properties ?? {}).some(hasDefaults),
  );
  expect(lost).toEqual(["", "spec"]);
});

test("seconds say so, and are whole", () => {
  for (const { path, schema } of fields)
    if (/Seconds$/.test(path) && path.startsWith("spec")) expect(schema.format).toBe("int32");
});

test("lists of named things are list-maps", () => {
  const named = fields.filter(({ schema }) => schema.items?.properties?.name);
  expect(named.map(({ path, schema }) => [path, schema["x-kubernetes-list-map-keys"]])).toEqual([
    ["spec.roles", ["name"]],
    ["spec.variants", ["name"]],
    ["status.roles", ["name"]],
  ]);
});

test("zod takes what the CRD's schema takes, with the same defaults", () => {
  const spec = structural(LLMPoolSpec);
  fc.assert(
    fc.property(fromSchema(spec), (value) => {
      const filled = structuredClone(value);
      applyDefaults(filled, spec);
      expect(LLMPoolSpec.parse(value)).toEqual(filled);
    }),
  );
});

test.each([
  ["a union", z.union([z.string(), z.boolean()])],
  ["anything", z.strictObject({ x: z.unknown() })],
])("refuses %s, which a CRD cannot say", (_, schema) => {
  expect(() => structural(schema)).toThrow("not structural");
});
