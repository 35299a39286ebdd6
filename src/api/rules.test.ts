import { expect, test } from "vitest";
import { BROKEN_RULES, VALID_SPECS } from "../../test/fixtures/broken-rules.ts";
import { manifest } from "../../test/support/pool.ts";
import { LLMPool } from "./llmpool.ts";
import { type Schema, structural } from "./structural.ts";
import { validatePool } from "./validate.ts";

test.each(BROKEN_RULES)("$path: $message", ({ path, message, told, manifest }) => {
  expect(validatePool(manifest)).toEqual({ ok: false, problems: told ?? [{ path, message }] });
});

test.each(VALID_SPECS)("%o is valid", (spec) => {
  expect(validatePool(manifest(spec))).toMatchObject({ ok: true });
});

test("every rule has a manifest that breaks it", () => {
  const covered = new Set(BROKEN_RULES.map((row) => row.message));
  expect(messages(structural(LLMPool)).filter((message) => !covered.has(message))).toEqual([]);
});

function messages(schema: Schema): string[] {
  const inner = [...Object.values(schema.properties ?? {}), schema.items, schema.additionalProperties].filter(
    (s) => s !== undefined,
  );
  return [...(schema["x-kubernetes-validations"] ?? []).map((rule) => rule.message), ...inner.flatMap(messages)];
}
