import { expect, test } from "vitest";
import { LoadGate } from "./load-gate.ts";

test("lets in as many as there are places, the rest in order as places come back", () => {
  const gate = new LoadGate(2);
  const inside: string[] = [];
  const [a, b, , d] = ["a", "b", "c", "d"].map((name) => gate.ask(() => inside.push(name)));
  expect(inside).toEqual(["a", "b"]);
  d?.();
  a?.();
  a?.();
  expect(inside).toEqual(["a", "b", "c"]);
  gate.ask(() => inside.push("e"));
  b?.();
  expect(inside).toEqual(["a", "b", "c", "e"]);
});
