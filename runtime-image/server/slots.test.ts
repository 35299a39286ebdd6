import { expect, test } from "vitest";
import { Speed } from "../../src/core/speed.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { Slots } from "./slots.ts";

const never = new AbortController().signal;
const settle = () => new Promise((resolve) => setImmediate(resolve));

function setup(slots: number, waiting = 10) {
  const counts: number[] = [];
  const clock = new FakeClock();
  const line = new Slots({
    id: "0",
    slots,
    waiting,
    clock,
    speed: new Speed(),
    onRunning: (running) => counts.push(running),
  });
  const ask = (session?: string, limit?: number) =>
    line.ask(
      {
        flow: "f",
        deadline: clock.now() + 1000,
        deadlineCode: "request_timeout",
        prefillTokens: 0,
        ...(session !== undefined && { session }),
      },
      limit,
    ).slot;
  return { line, ask, counts };
}

test("as many run as there are slots, and of one session one", async () => {
  const { line, ask } = setup(2);
  const first = await ask("a");
  const second = ask("a");
  using _other = await ask("b");
  expect([line.running, line.waiting]).toEqual([2, 1]);
  first.release();
  using _second = await second;
  expect([line.running, line.waiting]).toEqual([2, 0]);
});

test("a session alone takes no slot, and waits for its turn", async () => {
  const { line, ask } = setup(1);
  const turn = await ask("a");
  using _free = await line.session("b", never);
  const wanted = line.session("a", never);
  await settle();
  expect([line.running, line.waiting]).toEqual([1, 1]);
  turn.release();
  using _turn = await wanted;
  expect(line.running).toBe(0);
});

test("while a session alone is held, its next turn waits and others pass", async () => {
  const { line, ask } = setup(2);
  const held = await line.session("a", never);
  const turn = ask("a");
  using _other = await ask("b");
  expect([line.running, line.waiting]).toEqual([1, 1]);
  held[Symbol.dispose]();
  using _turn = await turn;
  expect([line.running, line.waiting]).toEqual([2, 0]);
});

test("a caller who leaves while it waits for a session is forgotten", async () => {
  const { line, ask } = setup(1);
  const turn = await ask("a");
  const leave = new AbortController();
  const wanted = line.session("a", leave.signal);
  leave.abort(new Error("gone"));
  await expect(wanted).rejects.toThrow("gone");
  await expect(line.session("a", leave.signal)).rejects.toThrow("gone");
  expect(line.waiting).toBe(0);
  turn.release();
  await line.idle();
});

test("the caller says how many may wait", async () => {
  const { ask } = setup(1, 1);
  using _running = await ask();
  ask().catch(() => {});
  expect(() => ask()).toThrow("1 requests waiting");
  ask(undefined, 2).catch(() => {});
  expect(() => ask(undefined, 2)).toThrow("2 requests waiting");
});

test("idle waits for those who run, who wait and who hold a session", async () => {
  const { line, ask, counts } = setup(1);
  await line.idle();
  const first = await ask("a");
  const second = ask("a");
  const held = await line.session("b", never);
  let idle = false;
  const watching = line.idle().then(() => {
    idle = true;
  });
  first.release();
  (await second).release();
  await settle();
  expect(idle).toBe(false);
  held[Symbol.dispose]();
  await watching;
  expect(counts[0]).toBe(1);
  expect(counts.at(-1)).toBe(0);
});
