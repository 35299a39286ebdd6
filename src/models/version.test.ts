import { expect, test } from "vitest";
import { compareVersions, isPrerelease } from "./version.ts";

test("orders versions as a package index does", () => {
  const ordered = ["0.9", "1.0.dev1", "1.0a1", "1.0b2", "1.0rc1", "1.0", "1.0.post1", "1.2", "1.10", "2.0", "1!0.1"];
  expect([...ordered].reverse().sort(compareVersions)).toEqual(ordered);
  expect(compareVersions("1.0", "v1.0.0")).toBe(0);
});

test("knows pre-releases", () => {
  expect(["1.0a1", "1.0rc1", "1.0.dev3"].every(isPrerelease)).toBe(true);
  expect(["1.0", "1.0.post1", "2.1.3"].some(isPrerelease)).toBe(false);
});
