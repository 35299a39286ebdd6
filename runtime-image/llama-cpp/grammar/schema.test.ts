import fc from "fast-check";
import { getLlama, type Llama } from "node-llama-cpp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { GrammarBuilder } from "./builder.ts";
import { SchemaError } from "./limits.ts";
import { compileSchema } from "./schema.ts";

/** The engine's own matcher judges what a grammar allows. */
let llama: Llama;
beforeAll(async () => {
  llama = await getLlama({ gpu: false, build: "never", skipDownload: true, progressLogs: false, logger: () => {} });
});
afterAll(() => llama.dispose());

async function matcher(schema: unknown): Promise<(text: string) => boolean> {
  const builder = new GrammarBuilder();
  const grammar: unknown = await llama.createGrammar({ grammar: builder.text(compileSchema(schema, builder)) });
  return (text) => (grammar as { _testText(text: string): boolean })._testText(text);
}

const ROWS: { name: string; schema: unknown; yes: string[]; no: string[] }[] = [
  { name: "anything", schema: {}, yes: ["1", '"a"', "[1, [], {}]", '{"a": {"b":null}}'], no: ["", "{", "nul", "1 "] },
  { name: "true", schema: true, yes: ["false"], no: ["x"] },
  {
    name: "required and optional properties in order",
    schema: {
      type: "object",
      properties: { a: { type: "integer" }, b: { type: "string" }, c: { type: "boolean" } },
      required: ["b"],
      additionalProperties: false,
    },
    yes: ['{"b": "x"}', '{"a": 1, "b": "x"}', '{"a":1,"b":"x","c":true}', '{"b": "x", "c": false}'],
    no: [
      "{}",
      '{"a": 1}',
      '{"b": 1}',
      '{"b": "x", }',
      '{"b": "x", "d": 1}',
      '{ "b": "x"}',
      '{"b":  "x"}',
      '{"a": 1"b": "x"}',
    ],
  },
  {
    name: "only optional properties",
    schema: { properties: { a: { type: "null" }, b: { type: "null" } } },
    yes: ["{}", '{"a": null}', '{"b": null}', '{"a": null, "b": null}'],
    no: ['{, "a": null}', '{"b": null, "a": null}'],
  },
  {
    name: "a required property without a schema",
    schema: { type: "object", required: ["x"] },
    yes: ['{"x": [1]}'],
    no: ["{}"],
  },
  {
    name: "a map",
    schema: { type: "object", additionalProperties: { type: "integer" } },
    yes: ["{}", '{"k": 1, "l": 2}'],
    no: ['{"k": "1"}'],
  },
  {
    name: "no properties at all",
    schema: { type: "object", additionalProperties: false },
    yes: ["{}"],
    no: ['{"a": 1}'],
  },
  {
    name: "const and enum",
    schema: { enum: ['a"b\\', 1, null, { x: [1] }] },
    yes: ['"a\\"b\\\\"', "1", "null", '{"x":[1]}'],
    no: ['"a"', "2"],
  },
  {
    name: "a list with limits",
    schema: { type: "array", items: { type: "boolean" }, minItems: 1, maxItems: 3 },
    yes: ["[true]", "[true, false,true]"],
    no: ["[]", "[true, true, true, true]", "[1]"],
  },
  { name: "an empty list", schema: { type: "array", maxItems: 0 }, yes: ["[]"], no: ["[1]"] },
  {
    name: "a tuple",
    schema: { type: "array", prefixItems: [{ type: "integer" }, { type: "string" }], items: false },
    yes: ['[1, "a"]'],
    no: ["[1]", '["a", 1]'],
  },
  {
    name: "a counted string",
    schema: { type: "string", minLength: 2, maxLength: 3 },
    yes: ['"ab"', '"äöü"', '"\\n\\""'],
    no: ['"a"', '"abcd"', '"a\nb"'],
  },
  {
    name: "a long counted string",
    schema: { type: "string", maxLength: 5000 },
    yes: ['""', `"${"x".repeat(4900)}"`],
    no: [`"${"x".repeat(5001)}"`],
  },
  {
    name: "a pattern",
    schema: { type: "string", pattern: "^[A-Z]{2}-\\d{3,4}(x|yz)?$" },
    yes: ['"AB-123"', '"AB-1234yz"'],
    no: ['"AB-12"', '"ab-123"', '"AB-123xyz"'],
  },
  {
    name: "a pattern with negations",
    schema: { type: "string", pattern: "[^/]+\\.\\S*" },
    yes: ['"a.b"', '"ä."'],
    no: ['"a/b.c"', '"a"b.c"', '".x"'],
  },
  {
    name: "formats",
    schema: { type: "string", format: "date-time" },
    yes: ['"2026-02-28T23:59:59Z"', '"2026-02-01T00:00:00.5+02:00"'],
    no: ['"2026-02-31T00:00:00Z"', '"2026"'],
  },
  {
    name: "a uuid",
    schema: { type: "string", format: "uuid" },
    yes: ['"123e4567-e89b-12d3-a456-426614174000"'],
    no: ['"123e"'],
  },
  { name: "a format that is a note", schema: { type: "string", format: "email" }, yes: ['"x"'], no: ["1"] },
  { name: "several types", schema: { type: ["string", "null"] }, yes: ["null", '"a"'], no: ["1"] },
  { name: "nullable", schema: { type: "integer", nullable: true }, yes: ["null", "-5"], no: ["1.5"] },
  {
    name: "anyOf",
    schema: { anyOf: [{ type: "integer" }, { type: "array", items: { type: "integer" } }] },
    yes: ["1", "[1]"],
    no: ['"1"'],
  },
  {
    name: "anyOf beside properties",
    schema: {
      type: "object",
      properties: { a: { const: 1 }, b: { const: 2 } },
      anyOf: [{ required: ["a"] }, { required: ["b"] }],
    },
    yes: ['{"a": 1}', '{"b": 2}', '{"a": 1, "b": 2}'],
    no: ["{}"],
  },
  {
    name: "allOf",
    schema: {
      allOf: [
        { properties: { a: { const: 1 } }, required: ["a"] },
        { properties: { b: { const: 2 } }, required: ["b"] },
      ],
    },
    yes: ['{"a": 1, "b": 2}'],
    no: ['{"a": 1}'],
  },
  {
    name: "references, also to itself",
    schema: {
      $ref: "#/$defs/node",
      $defs: {
        node: {
          type: "object",
          properties: { v: { type: "integer" }, next: { anyOf: [{ $ref: "#/$defs/node" }, { type: "null" }] } },
          required: ["v", "next"],
        },
      },
    },
    yes: ['{"v": 1, "next": null}', '{"v": 1, "next": {"v": 2, "next": null}}'],
    no: ['{"v": 1}', '{"v": 1, "next": {}}'],
  },
  {
    name: "const beside a reference",
    schema: { $ref: "#/$defs/kind", const: "circle", $defs: { kind: { enum: ["circle", "square"] } } },
    yes: ['"circle"'],
    no: ['"square"'],
  },
  {
    name: "enum beside a reference",
    schema: { $ref: "#/$defs/kind", enum: ["circle", "line"], $defs: { kind: { enum: ["circle", "square"] } } },
    yes: ['"circle"'],
    no: ['"square"', '"line"'],
  },
  {
    name: "alternatives beside a reference",
    schema: {
      ...{ $ref: "#/$defs/named", anyOf: [{ required: ["a"] }, { required: ["b"] }] },
      $defs: { named: { type: "object", properties: { a: { const: 1 }, b: { const: 2 } } } },
    },
    yes: ['{"a": 1}', '{"b": 2}'],
    no: ["{}"],
  },
  {
    name: "what forbids beside a reference in a part",
    schema: { allOf: [{ $ref: "#/$defs/text", maxLength: 2 }], $defs: { text: { type: "string" } } },
    yes: ['"ab"'],
    no: ['"abc"'],
  },
  {
    name: "notes beside a reference",
    schema: { $ref: "#/$defs/kind", title: "Kind", "x-order": 1, $defs: { kind: { const: "circle" } } },
    yes: ['"circle"'],
    no: ["1"],
  },
  {
    name: "values that the type beside them allows",
    schema: { type: "integer", enum: [1, "a", 1.5, 2] },
    yes: ["1", "2"],
    no: ['"a"', "1.5"],
  },
  {
    name: "values that the limits beside them allow",
    schema: { type: ["string", "number"], enum: ["abc", "x", 5, 50], maxLength: 1, maximum: 9 },
    yes: ['"x"', "5"],
    no: ['"abc"', "50"],
  },
  {
    name: "lists and objects that the keywords beside them allow",
    schema: {
      enum: [[], [1], ["a"], [1, 2], { a: 1 }, { a: "x" }, { b: 1 }, {}],
      ...{ items: { type: "integer" }, minItems: 1, maxItems: 1 },
      ...{ properties: { a: { type: "integer" } }, additionalProperties: false, required: ["a"] },
    },
    yes: ["[1]", '{"a":1}'],
    no: ["[]", '["a"]', "[1,2]", '{"a":"x"}', '{"b":1}', "{}"],
  },
  {
    name: "values that the alternatives beside them allow",
    schema: { enum: ["a", 1, 2, null], anyOf: [{ type: "string" }, { minimum: 2, type: "integer" }] },
    yes: ['"a"', "2"],
    no: ["1", "null"],
  },
  {
    name: "anyOf beside oneOf",
    schema: {
      type: "object",
      properties: { a: { const: 1 }, b: { const: 2 } },
      anyOf: [{ required: ["a"] }, { properties: { a: { const: 1 } } }],
      oneOf: [{ required: ["b"] }],
    },
    yes: ['{"a": 1, "b": 2}', '{"b": 2}'],
    no: ['{"a": 1}', "{}"],
  },
  {
    name: "a count of properties beside alternatives",
    schema: { minProperties: 1, anyOf: [{ type: "object", additionalProperties: { type: "null" } }] },
    yes: ['{"k": null}'],
    no: ["{}"],
  },
  {
    name: "a required property without a schema where others have one",
    schema: { type: "object", required: ["x"], additionalProperties: { type: "integer" } },
    yes: ['{"x": 1}'],
    no: ['{"x": "a"}'],
  },
  {
    name: "null in one part only",
    schema: { allOf: [{ type: "string", nullable: true }, { maxLength: 1 }] },
    yes: ['"a"'],
    no: ["null"],
  },
  {
    name: "a reference to the root",
    schema: { type: "array", items: { $ref: "#" } },
    yes: ["[]", "[[], [[]]]"],
    no: ["[1]"],
  },
  {
    name: "numbers",
    schema: { type: "number" },
    yes: ["0", "-1.5", "1e-9", "12E+3"],
    no: ["01", "+1", ".5", "1.", "NaN"],
  },
  {
    name: "a share",
    schema: { type: "number", minimum: 0, maximum: 1 },
    yes: ["0", "0.25", "1"],
    no: ["1.1", "-0.5", "2", "1e0"],
  },
  {
    name: "a price",
    schema: { type: "number", exclusiveMinimum: 0 },
    yes: ["0.5", "1", "17.25"],
    no: ["0", "0.0", "-1"],
  },
  {
    name: "fine bounds",
    schema: { type: "number", minimum: 0.25, maximum: 1.5 },
    yes: ["0.25", "0.99", "1.50"],
    no: ["0.24", "1.51", "1"],
  },
  {
    name: "below zero",
    schema: { type: "number", exclusiveMaximum: 0, minimum: -2 },
    yes: ["-0.5", "-2", "-1"],
    no: ["0", "-0", "-2.5", "1"],
  },
];

describe("compileSchema", () => {
  it.each(ROWS)("allows what is valid and nothing else: $name", async ({ schema, yes, no }) => {
    const allows = await matcher(schema);
    expect(yes.filter((text) => !allows(text))).toEqual([]);
    expect(no.filter((text) => allows(text))).toEqual([]);
  });

  it("never allows a number outside its bounds", async () => {
    const edge = fc.oneof(
      fc.integer({ min: -2000, max: 2000 }),
      fc.integer({ min: -30, max: 30 }).map((n) => n / 10),
    );
    await fc.assert(
      fc.asyncProperty(
        edge,
        edge,
        fc.boolean(),
        fc.boolean(),
        fc.array(edge, { minLength: 20 }),
        async (a, b, open, whole, tries) => {
          const [low, high] = [Math.min(a, b), Math.max(a, b)];
          const schema = {
            type: whole ? "integer" : "number",
            [open ? "exclusiveMinimum" : "minimum"]: low,
            maximum: high,
          };
          const allows = await matcher(schema).catch((error: unknown) => {
            expect(error).toBeInstanceOf(SchemaError); // nothing can be written between these
            return () => false;
          });
          for (const x of [...tries, low, high, low - 1, high + 1]) {
            const valid = x <= high && (open ? x > low : x >= low) && (!whole || Number.isInteger(x));
            if (allows(String(x))) expect({ x, valid }).toEqual({ x, valid: true });
            if (whole && valid && x !== 0) expect(allows(String(x))).toBe(true);
          }
        },
      ),
      { numRuns: 200 },
    );
  });

  const deep = (levels: number): unknown => (levels === 0 ? {} : { type: "array", items: deep(levels - 1) });
  it.each([
    {
      name: "a keyword it cannot enforce",
      schema: { type: "object", properties: { a: { not: {} } } },
      where: "/properties/a/not",
    },
    { name: "uniqueItems", schema: { type: "array", uniqueItems: true }, where: "/uniqueItems" },
    { name: "an unknown type", schema: { type: "text" }, where: "/type" },
    { name: "false", schema: { type: "array", items: false }, where: "/items" },
    { name: "a text in its place", schema: { type: "array", items: "string" }, where: "/items" },
    { name: "a missing reference", schema: { $ref: "#/$defs/none" }, where: "/$ref" },
    { name: "a reference elsewhere", schema: { $ref: "https://example.com/a" }, where: "/$ref" },
    { name: "an inherited key as reference", schema: { $ref: "#/constructor" }, where: "/$ref" },
    { name: "an empty enum", schema: { enum: [] }, where: "/enum" },
    { name: "values of which none is allowed", schema: { type: "string", enum: [1, 2] }, where: "/enum" },
    { name: "a const of another type", schema: { type: "string", const: 1 }, where: "/const" },
    { name: "a pattern beside values", schema: { enum: ["a"], pattern: "a" }, where: "/pattern" },
    {
      name: "more items than may be",
      schema: { type: "array", prefixItems: [{}, {}], minItems: 2, maxItems: 1 },
      where: "/minItems",
    },
    {
      name: "a property that another part forbids",
      schema: {
        allOf: [
          { properties: { a: {} }, additionalProperties: false },
          { properties: { b: {} }, required: ["b"] },
        ],
      },
      where: "/allOf",
    },
    {
      name: "a required property that is not declared and must not be",
      schema: { type: "object", properties: { a: {} }, required: ["x"], additionalProperties: false },
      where: "/properties/x",
    },
    { name: "too much repetition", schema: { type: "array", minItems: 100_000 }, where: "" },
    { name: "impossible bounds", schema: { type: "integer", minimum: 3, maximum: 2 }, where: "" },
    { name: "a look-ahead", schema: { type: "string", pattern: "(?=a)b" }, where: "/pattern" },
    { name: "a huge repetition in a pattern", schema: { type: "string", pattern: "a{9999}" }, where: "/pattern" },
    { name: "too long an enum", schema: { enum: Array.from({ length: 257 }, (_, i) => i) }, where: "/enum" },
    { name: "too deep a schema", schema: deep(1_000), where: "" },
    {
      name: "too large a schema",
      schema: { enum: Array.from({ length: 9000 }, (_, i) => `value ${i} of many`) },
      where: "",
    },
    { name: "too many values", schema: { enum: Array.from({ length: 20_000 }, (_, i) => i) }, where: "" },
  ])("refuses $name and says where", ({ schema, where }) => {
    expect(() => compileSchema(schema, new GrammarBuilder())).toThrow(
      expect.objectContaining({ name: "Error", path: where }),
    );
  });

  const node = (name: string, ...members: string[]) => ({
    type: "object",
    properties: { kind: { const: name }, ...Object.fromEntries(members.map((m) => [m, { $ref: "#/$defs/node" }])) },
    required: ["kind", ...members],
  });
  it.each([
    ["a name of DNS", "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$"],
    ["a version", "^\\d+\\.\\d+\\.\\d+(-[0-9A-Za-z-]+(\\.[0-9A-Za-z-]+)*)?(\\+[0-9A-Za-z.-]+)?$"],
    ["an address", "^(25[0-5]|2[0-4]\\d|1?\\d?\\d)(\\.(25[0-5]|2[0-4]\\d|1?\\d?\\d)){3}$"],
    ["a mail address", "^[\\w.+-]+@[\\w-]+(\\.[\\w-]+)+$"],
    ["a URL", "^https?://[\\w.-]+(:\\d{1,5})?(/[\\w./-]*)?$"],
    ["a word somewhere", ".*error.*"],
    ["a long text", "[a-zA-Z0-9 ]{0,1000}"],
  ])("compiles the pattern of %s", (_name, pattern) => {
    expect(() => compileSchema({ type: "string", pattern }, new GrammarBuilder())).not.toThrow();
  });

  it("compiles alternatives that a const tells apart, also when they lead back to themselves", () => {
    const kinds = [node("add", "left", "right"), node("minus", "of"), node("if", "when", "then", "else")];
    const leaf = { type: "object", properties: { kind: { const: "leaf" }, value: {} }, required: ["kind", "value"] };
    const schema = { $ref: "#/$defs/node", $defs: { node: { oneOf: [...kinds, leaf] } } };
    expect(() => compileSchema(schema, new GrammarBuilder())).not.toThrow();
  });

  const doubled = (levels: number): unknown => ({
    $ref: "#/$defs/d0",
    $defs: Object.fromEntries(
      Array.from({ length: levels }, (_, i) => {
        const items = i === levels - 1 ? { type: "null" } : { $ref: `#/$defs/d${i + 1}` };
        return [`d${i}`, { anyOf: [9, 10].map((maxItems) => ({ type: "array", items, maxItems })) }];
      }),
    ),
  });
  const itself = [9, 10].map((maxItems) => ({ type: "array", items: { $ref: "#" }, maxItems }));
  it.each([
    ["a counted repetition of one", "([ab]{0,1000}){0,1000}"],
    ["many letters that may be missing", "a?".repeat(100)],
    ["loops in loops", `${"(".repeat(30)}a${")+".repeat(30)}`],
    ["counts that overlap", "a{1,100}".repeat(20)],
    ["a choice far behind", "(a|b)*a(a|b){60}"],
    ["a count behind a count", "a{65,1000}a{0,1000}"],
  ])("refuses a pattern whose ways the engine would follow for ever: %s", (_name, pattern) => {
    expect(() => compileSchema({ type: "string", pattern }, new GrammarBuilder())).toThrow(SchemaError);
  });
  it.each([
    ["that double with each level", doubled(30)],
    ["that double with each level of the text", { anyOf: itself }],
    ["of many strings", { anyOf: Array.from({ length: 60 }, (_, i) => ({ type: "string", maxLength: i + 1 })) }],
  ])("refuses alternatives %s", (_name, schema) => {
    expect(() => compileSchema(schema, new GrammarBuilder())).toThrow(/begin alike/);
  });

  it("refuses a schema that makes an exploding grammar, before the engine sees it", () => {
    const wide = Object.fromEntries(
      Array.from({ length: 2500 }, (_, i) => [`p${i}`, { type: "integer", minimum: i, maximum: i * 7 }]),
    );
    expect(() => compileSchema({ properties: wide, required: Object.keys(wide) }, new GrammarBuilder())).toThrow(
      SchemaError,
    );
  });

  it("leaves a schema that is its own reference to the engine, which refuses it without dying", async () => {
    await expect(matcher({ $ref: "#" })).rejects.toThrow();
  });
});
