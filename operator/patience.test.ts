import { expect, test } from "vitest";
import { ApiError } from "../src/kube/errors.ts";
import type { Problem } from "./apply.ts";
import { Patience } from "./patience.ts";

const refused = (status: number): Problem => ({
  reason: "ApplyFailed",
  message: String(status),
  error: new ApiError("PATCH /x", status),
});
const TAKEN: Problem = { reason: "ObjectTaken", message: "taken" };

test("what may pass by itself is told after ten seconds of it, everything else at once", () => {
  const patience = new Patience();
  const told = (now: number, ...problems: Problem[]) =>
    patience.lasting("a", problems, now).map(({ message }) => message);
  expect(told(0, refused(409), refused(504), TAKEN, refused(403))).toEqual(["taken", "403"]);
  expect(told(9_999, refused(429))).toEqual([]);
  expect(told(10_000, refused(500))).toEqual(["500"]);
  expect(patience.lasting("b", [refused(500)], 10_000)).toEqual([]);
  expect([patience.tellsInMs("a", 10_000), patience.tellsInMs("b", 12_000)]).toEqual([undefined, 8_000]);
});

test("a time without trouble starts it over", () => {
  const patience = new Patience();
  for (const now of [0, 20_000]) {
    expect(patience.lasting("a", [refused(409)], now)).toEqual([]);
    expect(patience.lasting("a", [], now + 5_000)).toEqual([]);
  }
});
