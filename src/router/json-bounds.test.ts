import { expect, test } from "vitest";
import { tooCostly } from "./json-bounds.ts";

const MIB = 2 ** 20;
const judge = (text: string) => tooCostly(Buffer.from(text));

test.each([
  ["a mebibyte of one text", JSON.stringify({ text: "[{,".repeat(MIB) })],
  ["a mebibyte of escapes", JSON.stringify({ text: '"\\[{,'.repeat(MIB / 4) })],
  ["as many values as are allowed", `[${"1,".repeat(249_000)}"${"x".repeat(MIB)}"]`],
  ["as much depth as is allowed", `${"[".repeat(512)}"${"x".repeat(MIB)}"${"]".repeat(512)}`],
  ["depth that is small", "[".repeat(100_000)],
])("takes %s", (_name, text) => {
  expect(judge(text)).toBeUndefined();
});

test.each([
  ["depth", "[".repeat(MIB), /512 levels/],
  ["depth of objects", '{"a":'.repeat(MIB), /512 levels/],
  ["numbers", `[${"1,".repeat(MIB)}1]`, /250000 values/],
  ["empty objects", `[${"{},".repeat(MIB)}{}]`, /250000 values/],
  ["names", `{${'"a":1,'.repeat(MIB)}"a":1}`, /250000 values/],
])("refuses a mebibyte of %s", (_name, text, why) => {
  expect(judge(text)).toMatch(why);
});
