import { expect, test } from "vitest";
import { knownNames, settings } from "./flags.ts";

test("a repeated NAME=VALUE keeps each name's last value, and refuses names it does not know", () => {
  const parse = knownNames(["router", "stub"]);
  const first = parse("router=registry.example:5000/a=b:1", {});
  expect(parse("stub=x", first)).toEqual({ router: "registry.example:5000/a=b:1", stub: "x" });
  expect(parse("router=y", first)).toEqual({ router: "y" });
  for (const wrong of ["other=x", "router", "router=", "=x"])
    expect(() => parse(wrong, {})).toThrow("where NAME is router, stub");
});

test("--set takes a field and its value as YAML, the newest first", () => {
  const parse = settings().parseArg;
  const first = parse?.("router.drainSeconds=5", []);
  expect(parse?.("roles=[{name: a}]", first)).toEqual([
    { path: ["spec", "roles"], value: [{ name: "a" }], from: "--set roles" },
    { path: ["spec", "router", "drainSeconds"], value: 5, from: "--set router.drainSeconds" },
  ]);
  for (const wrong of ["instances", "instances=", "=2", "roles[0].name=x"])
    expect(() => parse?.(wrong, [])).toThrow("write FIELD=VALUE");
  expect(() => parse?.("roles=[", [])).toThrow("the value is not YAML");
});
