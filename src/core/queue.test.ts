import { describe, expect, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { LLMPoolError } from "../lib/errors.ts";
import { flowOf, InstanceQueue, type QueueItem, type QueueLimits, type Slot } from "./queue.ts";
import { Speed } from "./speed.ts";

function setup(limits: Partial<QueueLimits> = {}) {
  const clock = new FakeClock();
  const speed = new Speed();
  const queue = new InstanceQueue("0", { clock, speed }, { slots: 1, waiting: 64, ...limits });
  const order: string[] = [];
  const slots = new Map<string, Slot>();
  const add = (name: string, item: Partial<QueueItem> = {}) => {
    const ticket = queue.enqueue({
      flow: name,
      deadline: clock.now() + 100_000,
      deadlineCode: "request_timeout",
      prefillTokens: 0,
      ...item,
    });
    ticket.slot.then(
      (slot) => {
        order.push(name);
        slots.set(name, slot);
      },
      () => {},
    );
    return ticket;
  };
  /** Lets what started be seen, then ends it. */
  const end = async (name: string) => {
    await settle();
    const slot = slots.get(name);
    if (!slot) throw new Error(`${name} does not run`);
    slot.release();
    await settle();
  };
  return { clock, speed, queue, order, add, end };
}

async function settle(): Promise<void> {
  for (let i = 0; i < 4; i++) await Promise.resolve();
}

describe("order", () => {
  test("the earliest deadline among the heads of the flows goes first, each flow in the order it came", async () => {
    const { add, end, order } = setup();
    add("x");
    add("a1", { flow: "a", deadline: 900 });
    add("a2", { flow: "a", deadline: 10 });
    add("b1", { flow: "b", deadline: 500 });
    add("b2", { flow: "b", deadline: 600 });
    for (const name of ["x", "b1", "b2", "a1", "a2"]) await end(name);
    expect(order).toEqual(["x", "b1", "b2", "a1", "a2"]);
  });

  test("equal deadlines go in the order they came", async () => {
    const { add, end, order } = setup();
    add("x");
    for (const name of ["c", "a", "b"]) add(name, { deadline: 500 });
    for (const name of ["x", "c", "a", "b"]) await end(name);
    expect(order).toEqual(["x", "c", "a", "b"]);
  });

  test("a flow that holds its share of the slots yields while another waits", async () => {
    const { add, end, order } = setup({ slots: 4 });
    for (const name of ["a1", "a2", "a3", "a4"]) add(name, { flow: "a" });
    add("a5", { flow: "a", deadline: 100 });
    add("b1", { flow: "b", deadline: 50_000 });
    add("b2", { flow: "b", deadline: 50_000 });
    await end("a1");
    await end("a2");
    expect(order.slice(4)).toEqual(["b1", "b2"]);
    await end("a3");
    expect(order.slice(6)).toEqual(["a5"]);
  });

  test("a slot is not left empty because the only one who waits has its share", async () => {
    const { add, order } = setup({ slots: 4 });
    for (const name of ["b1", "a1", "a2", "a3"]) add(name, { flow: name.slice(0, 1) });
    await settle();
    expect(order).toHaveLength(4);
  });

  test("ever new requests with tiny timeouts do not keep a patient one waiting", async () => {
    const { add, end, order, clock } = setup();
    add("g0", { flow: "greedy" });
    add("patient", { deadline: clock.now() + 1e9 });
    for (let i = 1; i <= 3; i++) {
      add(`g${i}`, { flow: "greedy", deadline: clock.now() + 1 });
      await end(order.at(-1) ?? "g0");
    }
    expect(order).toContain("patient");
  });

  test("a flow that is gone no longer counts when shares are made", async () => {
    const { add, end, order } = setup({ slots: 4 });
    for (const name of ["u", "v", "w"]) {
      add(name);
      await end(name);
    }
    // Two flows now: the share is 2, not 4/5.
    for (const name of ["a1", "b1", "b2", "b3"]) add(name, { flow: name.slice(0, 1) });
    add("b4", { flow: "b", deadline: 9_000 });
    add("a2", { flow: "a", deadline: 5_000 });
    add("a3", { flow: "a", deadline: 100 });
    await end("b1");
    await end("b2");
    expect(order.slice(-2)).toEqual(["a2", "b4"]);
  });

  test("a flow that could not start saves up no turns for later", async () => {
    const { add, end, order } = setup({ slots: 2 });
    add("s0", { flow: "s", session: "s" });
    for (const name of ["s1", "s2", "s3", "s4"]) add(name, { flow: "s", session: "s", deadline: 10 });
    const others = ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"];
    for (const name of others) add(name, { flow: name.slice(0, 1) });
    for (const name of others.slice(0, 6)) await end(name);
    // a3 runs on one slot; for the other, b3 competes with a flow that had one turn when b had three.
    for (const name of ["s0", "s1", "s2"]) await end(name);
    expect(order.slice(-3)).toEqual(["s1", "s2", "b3"]);
  });

  test("requests outside of episodes share one flow per tenant, so that leaving the episode out earns nothing", () => {
    expect(flowOf("t", undefined)).toBe(flowOf("t", undefined));
    expect(new Set([flowOf("t", undefined), flowOf("u", undefined), flowOf("t", "e"), flowOf("u", "e")]).size).toBe(4);
  });
});

describe("sessions", () => {
  test("turns of one session run one after another, and do not hold up the others of their flow", async () => {
    const { add, end, order, queue } = setup({ slots: 2 });
    add("s1", { flow: "a", session: "s" });
    add("s2", { flow: "a", session: "s" });
    add("t1", { flow: "a", session: "t" });
    await settle();
    expect(order).toEqual(["s1", "t1"]);
    await end("t1");
    expect(queue.running).toBe(1);
    await end("s1");
    expect(order).toEqual(["s1", "t1", "s2"]);
  });

  test("turns of one session keep their order over flows, whatever their deadlines", async () => {
    const { add, end, order } = setup();
    add("x");
    add("first", { flow: "a", session: "s", deadline: 900 });
    add("second", { flow: "b", session: "s", deadline: 100 });
    for (const name of ["x", "first", "second"]) await end(name);
    expect(order).toEqual(["x", "first", "second"]);
  });

  test("a turn that is cancelled lets the next one of its session run", async () => {
    const { add, end, order } = setup();
    add("s1", { session: "s" });
    const s2 = add("s2", { session: "s" });
    add("s3", { session: "s" });
    s2.cancel("no more");
    await end("s1");
    expect(order).toEqual(["s1", "s3"]);
  });
});

describe("limits", () => {
  test("a full line refuses at once, with the time after which one of it will have started", () => {
    const { add, speed } = setup({ slots: 2, waiting: 1 });
    speed.observeService(9_000);
    add("1", { flow: "a" });
    add("2", { flow: "a" });
    add("3", { flow: "a" });
    expect(refusal(() => add("4", { flow: "a" }))).toMatchObject({ code: "queue_full", retryAfterSeconds: 9 });
    expect(refusal(() => add("5", { flow: "b" }))).toMatchObject({ code: "queue_full" });
  });

  test("a flow that fills the line gives up its newest place to one with fewer", async () => {
    const { add, queue, end, order } = setup({ waiting: 3 });
    add("x");
    add("a1", { flow: "a" });
    add("a2", { flow: "a" });
    const a3 = add("a3", { flow: "a" });
    add("b1", { flow: "b" });
    await expect(a3.slot).rejects.toMatchObject({ code: "queue_full" });
    expect(queue.waiting).toBe(3);
    expect(refusal(() => add("a4", { flow: "a" })).code).toBe("queue_full");
    for (const name of ["x", "a1", "a2", "b1"]) await end(name);
    expect(order).toEqual(["x", "a1", "a2", "b1"]);
  });

  test("a line of length 0 takes only what starts at once", () => {
    const { add } = setup({ waiting: 0 });
    add("1");
    expect(refusal(() => add("2")).code).toBe("queue_full");
  });

  test("more slots let the waiting start, fewer cut nobody off", async () => {
    const { add, queue, order, end } = setup();
    for (const name of ["1", "2", "3"]) add(name);
    queue.resize({ slots: 3, waiting: 1 });
    await settle();
    expect(order).toEqual(["1", "2", "3"]);
    queue.resize({ slots: 1, waiting: 1 });
    add("4");
    expect(queue.running).toBe(3);
    await end("1");
    await end("2");
    expect(order).toHaveLength(3);
    await end("3");
    expect(order).toEqual(["1", "2", "3", "4"]);
  });
});

describe("deadlines", () => {
  test("refuses at once when even the first token would come too late by measured speed, and says the estimate", () => {
    const { add, speed } = setup();
    speed.observe({ promptTokens: 1000, cachedTokens: 0, completionTokens: 0, firstTokenMs: 10_000, totalMs: 10_000 });
    const late = refusal(() => add("1", { deadline: 9_000, prefillTokens: 1000 }));
    expect(late.code).toBe("request_timeout");
    expect(late.message).toContain("10.0 s to read the prompt");
    expect(late.message).toContain("9.0 s away");
    add("2", { deadline: 10_000, prefillTokens: 1000 });
  });

  test("counts those ahead, but not those it would pass", () => {
    const { add, speed } = setup();
    speed.observeService(10_000);
    for (const name of ["run", "1", "2"]) add(name, { deadline: 60_000 });
    // With the earliest deadline it is next: that can be soon enough.
    add("3", { flow: "quick", deadline: 9_000 });
    const behind = { flow: "1", deadline: 9_000, deadlineCode: "episode_deadline_exceeded" } as const;
    expect(refusal(() => add("4", behind)).code).toBe("episode_deadline_exceeded");
  });

  test("knows no estimate before anything was measured, and none while the instance is down", () => {
    const { add, queue, speed } = setup();
    for (let i = 0; i < 30; i++) add(`${i}`);
    add("a", { deadline: 1, prefillTokens: 1e9 });
    speed.observeService(1e6);
    queue.pause();
    add("b", { deadline: 1 });
  });

  test("a request that waited to its deadline is refused with the code of that limit", async () => {
    const { add, clock, queue } = setup();
    add("x");
    const a = add("a", { deadline: 100, deadlineCode: "episode_deadline_exceeded" });
    const b = add("b", { deadline: 200 });
    clock.advance(100);
    await expect(a.slot).rejects.toMatchObject({ code: "episode_deadline_exceeded" });
    expect(queue.waiting).toBe(1);
    clock.advance(100);
    await expect(b.slot).rejects.toMatchObject({ code: "request_timeout" });
    expect(queue.waiting).toBe(0);
  });

  test("is not started when by now the first token would come too late", async () => {
    const { add, clock, end, order, speed } = setup();
    add("x");
    const a = add("a", { deadline: 1_000, prefillTokens: 100 });
    speed.observe({ promptTokens: 1000, cachedTokens: 0, completionTokens: 0, firstTokenMs: 1_000, totalMs: 1_000 });
    clock.advance(950);
    await end("x");
    await expect(a.slot).rejects.toMatchObject({ code: "request_timeout" });
    expect(order).toEqual(["x"]);
  });

  test("an extended episode takes its waiting requests along", async () => {
    const { add, clock, end, order } = setup();
    add("x");
    const a = add("a", { deadline: 100, deadlineCode: "episode_deadline_exceeded" });
    a.setDeadline(300, "request_timeout");
    clock.advance(200);
    await end("x");
    expect(order).toEqual(["x", "a"]);
  });
});

describe("leaving", () => {
  test("an aborted signal gives the place up with its reason; one aborted before never gets a place", async () => {
    const { add, queue } = setup();
    add("x");
    const abort = new AbortController();
    const a = add("a", { signal: () => abort.signal });
    abort.abort("hung up");
    await expect(a.slot).rejects.toBe("hung up");
    expect(queue.waiting).toBe(0);
    expect(() => add("b", { signal: () => abort.signal })).toThrow("hung up");
  });

  test("a signal that comes after the start leaves the slot to its holder", async () => {
    const { add, end, queue } = setup();
    add("x");
    const abort = new AbortController();
    add("a", { signal: () => abort.signal });
    await end("x");
    abort.abort();
    expect(queue.running).toBe(1);
  });

  test("a slot that was granted in the very turn of the cancel is given back", async () => {
    const { add, end, queue } = setup();
    add("x");
    const a = add("a");
    await end("x");
    a.cancel("hung up");
    expect(queue.running).toBe(0);
  });

  test("a slot counts once, however often it is released", async () => {
    const { add, queue } = setup({ slots: 2 });
    const slot = await add("a").slot;
    add("b");
    slot.release();
    slot.release();
    slot[Symbol.dispose]();
    expect(queue.running).toBe(1);
  });

  test("close refuses who waits and who comes, and lets the running one end", async () => {
    const { add, queue, end } = setup();
    add("x");
    const a = add("a");
    queue.close();
    queue.close();
    await expect(a.slot).rejects.toMatchObject({ code: "instance_unavailable" });
    expect(refusal(() => add("b")).code).toBe("instance_unavailable");
    await end("x");
    expect(queue.running).toBe(0);
  });
});

describe("a paused instance", () => {
  test("starts nothing, goes on waiting, and starts in order when it is back", async () => {
    const { add, queue, order } = setup();
    queue.pause();
    add("a", { deadline: 900 });
    add("b", { deadline: 100 });
    await settle();
    expect(order).toEqual([]);
    queue.resume();
    await settle();
    expect(order).toEqual(["b"]);
  });

  test("sends its line away with the given reason, to be placed elsewhere", async () => {
    const { add, queue } = setup();
    queue.pause();
    const a = add("a");
    queue.evictAll("moved");
    await expect(a.slot).rejects.toBe("moved");
    expect(queue.waiting).toBe(0);
  });
});

test("a position counts turns first, then deadlines", async () => {
  const { add, end } = setup();
  expect(add("x").position()).toBe(0);
  const a1 = add("a1", { flow: "a", deadline: 900 });
  const a2 = add("a2", { flow: "a", deadline: 100 });
  const b1 = add("b1", { flow: "b", deadline: 500 });
  expect([a1.position(), a2.position(), b1.position()]).toEqual([2, 3, 1]);
  await end("x");
  expect([a1.position(), a2.position(), b1.position()]).toEqual([1, 2, 0]);
});

function refusal(run: () => unknown): LLMPoolError {
  try {
    run();
  } catch (error) {
    if (error instanceof LLMPoolError) return error;
    throw error;
  }
  throw new Error("was not refused");
}
