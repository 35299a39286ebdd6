import { expect, test } from "vitest";
import { covers } from "./covers.ts";

test.each([
  { name: "defaults and fields of others", stored: { a: 1, b: 2 }, wanted: { a: 1 }, want: true },
  { name: "another value", stored: { a: 2 }, wanted: { a: 1 }, want: false },
  { name: "a field that is gone", stored: {}, wanted: { a: { b: 1 } }, want: false },
  { name: "what is empty and was dropped", stored: {}, wanted: { data: {}, list: [] }, want: true },
  { name: "an item more", stored: { l: [{ n: "a" }, { n: "b" }] }, wanted: { l: [{ n: "a" }] }, want: false },
  { name: "defaults in an item", stored: { l: [{ n: "a", p: "TCP" }] }, wanted: { l: [{ n: "a" }] }, want: true },
  {
    name: "the server's spelling of an amount",
    stored: { limits: { memory: "1536Mi", cpu: "1500m" } },
    wanted: { limits: { memory: "1.5Gi", cpu: "1.5" } },
    want: true,
  },
  { name: "another amount", stored: { limits: { cpu: "1" } }, wanted: { limits: { cpu: "2" } }, want: false },
  { name: "texts that only look like amounts", stored: { tag: "1.0" }, wanted: { tag: "1" }, want: false },
  { name: "a map in place of a text", stored: { a: "x" }, wanted: { a: { b: 1 } }, want: false },
])("$name: $want", ({ stored, wanted, want }) => {
  expect(covers(stored, wanted)).toBe(want);
});
