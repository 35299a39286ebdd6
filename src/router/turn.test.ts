import { expect, test } from "vitest";
import { atEndOfTurn, endOfTurn } from "./turn.ts";

test("what is asked for in one turn is done at its end, in order; what that asks for, at the end of the next", async () => {
  const done: string[] = [];
  atEndOfTurn(() => {
    done.push("first");
    atEndOfTurn(() => done.push("next turn"));
  });
  atEndOfTurn(() => done.push("second"));
  await Promise.resolve();
  expect(done).toEqual([]);
  await endOfTurn();
  expect(done).toEqual(["first", "second"]);
  await endOfTurn();
  expect(done).toEqual(["first", "second", "next turn"]);
});
