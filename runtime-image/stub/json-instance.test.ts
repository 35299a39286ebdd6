import { describe, expect, test } from "vitest";
import { jsonInstance } from "./json-instance.ts";

test.each([
  [{}, null],
  [true, null],
  [{ const: 5, type: "integer" }, 5],
  [{ enum: ["b", "a"] }, "b"],
  [{ type: "boolean" }, false],
  [{ type: "null" }, null],
  [{ type: ["string", "null"] }, ""],
  [{ type: "string", minLength: 3 }, "aaa"],
  [{ type: "string", format: "date" }, "1970-01-01"],
  [{ type: "integer" }, 0],
  [{ type: "integer", minimum: 2.5 }, 3],
  [{ type: "integer", exclusiveMinimum: 2 }, 3],
  [{ type: "number", maximum: -2 }, -2],
  [{ type: "integer", exclusiveMaximum: 0 }, -1],
  [{ type: "integer", minimum: 5, multipleOf: 4 }, 8],
  [{ type: "array", items: { type: "boolean" } }, []],
  [{ type: "array", items: { type: "boolean" }, minItems: 2 }, [false, false]],
  [{ prefixItems: [{ const: 1 }], items: { const: 2 }, minItems: 2 }, [1, 2]],
  [
    { properties: { a: { const: 1 }, b: { const: 2 }, c: { const: 3 } }, required: ["c", "a", "z"] },
    { a: 1, c: 3, z: null },
  ],
  [{ type: "object", properties: { toString: { const: 1 } } }, {}],
  [{ anyOf: [{ const: 1 }, { const: 2 }] }, 1],
  [
    {
      allOf: [
        { properties: { a: { const: 1 } }, required: ["a"] },
        { properties: { b: { const: 2 } }, required: ["b"] },
      ],
    },
    { a: 1, b: 2 },
  ],
  [{ $ref: "#/$defs/x~1y", $defs: { "x/y": { const: 7 } } }, 7],
])("%j gives %j", (schema, want) => {
  expect(jsonInstance(schema, "p")).toEqual(want);
});

describe("refused by name, without building anything large", () => {
  test.each([
    [{ $ref: "#" }],
    [{ $ref: "#/$defs/none" }],
    [{ $ref: "https://example.com/schema" }],
    [{ $ref: "#/constructor" }],
    [{ type: "string", minLength: 1e9 }],
    [{ type: "string", pattern: "^(a+)+$" }],
    [{ type: "array", minItems: 1e9 }],
    [{ type: "array", minItems: 5000, items: { type: "array", minItems: 5000 } }],
    [{ type: "integer", minimum: 1, maximum: 0 }],
    [{ type: "text" }],
    [{ type: 5 }],
    [false],
    ["string"],
  ])("%j", (schema) => {
    expect(() => jsonInstance(schema, "tools")).toThrow(
      expect.objectContaining({ code: "invalid_request", param: "tools" }),
    );
  });
});
