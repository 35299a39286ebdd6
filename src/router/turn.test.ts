import { expect, test } from "vitest";
import { afterPromises, atEndOfTurn, endOfTurn } from "./turn.ts";

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

test("what has to wait for promises alone comes after all of them, and before the end of the turn", async () => {
  const done: string[] = [];
  atEndOfTurn(() => done.push("end of turn"));
  afterPromises(() => done.push("first"));
  afterPromises(() => done.push("second"));
  void (async () => {
    for (let i = 0; i < 5; i++) await null;
    done.push("promises");
  })();
  await endOfTurn();
  expect(done).toEqual(["promises", "first", "second", "end of turn"]);
});
