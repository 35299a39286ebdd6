import { expect, test } from "vitest";
import { knownNames } from "./flags.ts";

test("a repeated NAME=VALUE keeps each name's last value, and refuses names it does not know", () => {
  const parse = knownNames(["router", "stub"]);
  const first = parse("router=registry.example:5000/a=b:1", {});
  expect(parse("stub=x", first)).toEqual({ router: "registry.example:5000/a=b:1", stub: "x" });
  expect(parse("router=y", first)).toEqual({ router: "y" });
  for (const wrong of ["other=x", "router", "router=", "=x"])
    expect(() => parse(wrong, {})).toThrow("where NAME is router, stub");
});
