/** JSON schemas that look for what a compiler of grammars does badly: each explodes somewhere, or would. By what they do. */

const list = <T>(count: number, make: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => make(i));
const named = (count: number, make: (i: number) => [string, unknown]) => Object.fromEntries(list(count, make));
const pattern = (text: string) => ({ type: "string", pattern: text });
const tuple = (count: number, make: (i: number) => unknown) => ({ type: "array", prefixItems: list(count, make) });
const chain = (count: number, make: (next: string, i: number) => unknown) => ({
  $ref: "#/$defs/d0",
  $defs: named(count, (i) => [`d${i}`, i < count - 1 ? make(`#/$defs/d${i + 1}`, i) : { type: "null" }]),
});

export const HOSTILE_SCHEMAS: Readonly<Record<string, unknown>> = {
  "256 bounded integers": { properties: named(256, (i) => [`p${i}`, bounded("integer", i)]) },
  "700 bounded numbers": tuple(700, (i) => bounded("number", i)),
  "an enum of 60 KiB": { enum: list(256, (i) => "x".repeat(230) + i) },
  "30 long enums": tuple(30, () => ({ enum: list(256, (i) => `v${i}`) })),
  "a count of counts": pattern("([ab]{0,1000}){0,1000}"),
  "60 counts": pattern(list(60, (i) => `[a${String.fromCharCode(99 + (i % 20))}]{1000}`).join("")),
  "counts that overlap": pattern("a{0,1000}".repeat(30)),
  "1000 letters that may be missing": pattern("a?".repeat(499)),
  "loops in loops": pattern(`${"(".repeat(30)}a${")+".repeat(30)}`),
  "a choice far behind": pattern("(a|b)*a(a|b){200}"),
  "lists of lists of 1000": list(20, (i) => i).reduce<unknown>((items) => ({ type: "array", items, maxItems: 1_000 }), {
    type: "null",
  }),
  "900 counted strings": tuple(900, (i) => ({ type: "string", minLength: 1_000 - i, maxLength: 1_000 })),
  "900 long strings": tuple(900, (i) => ({ type: "string", maxLength: 60_000 + i })),
  "properties in properties": properties(4),
  "200 required in 256 ways": {
    ...{ type: "object", properties: named(200, (i) => [`q${i}`, { type: "null" }]) },
    anyOf: list(256, (i) => ({ required: [`q${i % 200}`] })),
  },
  "1000 parts of one": {
    allOf: list(900, (i) => ({ properties: { [`k${i}`]: { type: "null" } }, required: [`k${i}`] })),
  },
  "references that double": chain(40, ($ref) => ({ properties: { a: { $ref }, b: { $ref } } })),
  "alternatives that double": chain(40, ($ref, i) => ({
    anyOf: [
      { type: ["object"], $ref },
      { title: `t${i}`, type: ["object"], $ref },
    ],
  })),
  "lists that double": chain(40, ($ref) => ({
    anyOf: [9, 10].map((maxItems) => ({ type: "array", items: { $ref }, maxItems })),
  })),
  "256 strings at once": { anyOf: list(256, (i) => pattern(`a${i}b*`)) },
  "names of 1500 letters": list(30, (i) => i).reduce<unknown>(
    (inner) => ({ properties: { ["k".repeat(1_500)]: inner } }),
    { type: "null" },
  ),
};

function bounded(type: string, i: number) {
  return { type, minimum: -12_345.678 - i * 1_111, maximum: 98_765_432.109 + i * 7_777_777 };
}

function properties(depth: number): unknown {
  if (depth === 0) return { type: "null" };
  return { properties: named(30, (i) => [`p${i}`, i % 10 === 0 ? properties(depth - 1) : true]) };
}
