import fc from "fast-check";
import { expect, test } from "vitest";
import { Slots } from "./slots.ts";

const never = new AbortController().signal;
const settle = () => new Promise((resolve) => setImmediate(resolve));

test("as many run as there are slots; the others enter in their order", async () => {
  const slots = new Slots(2, 10, () => {});
  const entered: number[] = [];
  const leases = [0, 1, 2, 3].map((i) =>
    slots.slot(undefined, never).then((lease) => {
      entered.push(i);
      return lease;
    }),
  );
  await settle();
  expect(entered).toEqual([0, 1]);
  expect([slots.running, slots.waiting]).toEqual([2, 2]);
  (await leases[1])?.[Symbol.dispose]();
  await settle();
  expect(entered).toEqual([0, 1, 2]);
});

test("one whose session is busy lets later ones pass", async () => {
  const slots = new Slots(2, 10, () => {});
  const first = await slots.slot("a", never);
  const second = slots.slot("a", never);
  using _other = await slots.slot("b", never);
  expect([slots.running, slots.waiting]).toEqual([2, 1]);
  first[Symbol.dispose]();
  using _second = await second;
  expect([slots.running, slots.waiting]).toEqual([2, 0]);
});

test("a session alone takes no slot, and waits for its turn", async () => {
  const slots = new Slots(1, 10, () => {});
  const turn = await slots.slot("a", never);
  using _free = await slots.session("b", never);
  const wanted = slots.session("a", never);
  await settle();
  expect([slots.running, slots.waiting]).toEqual([1, 1]);
  turn[Symbol.dispose]();
  using _turn = await wanted;
  expect(slots.running).toBe(0);
});

test("beyond the queue is queue_full, and tells when to come again", async () => {
  const slots = new Slots(1, 1, () => {});
  using _running = await slots.slot(undefined, never);
  const waiting = new AbortController();
  const second = slots.slot(undefined, waiting.signal);
  await expect(slots.slot(undefined, never)).rejects.toMatchObject({ code: "queue_full", retryAfterSeconds: 1 });
  waiting.abort(new Error("gone"));
  await expect(second).rejects.toThrow("gone");
  expect(slots.waiting).toBe(0);
});

test("who leaves the queue frees its place, and who comes aborted never enters", async () => {
  const slots = new Slots(1, 10, () => {});
  await expect(slots.slot(undefined, AbortSignal.abort(new Error("gone")))).rejects.toThrow("gone");
  expect([slots.running, slots.waiting]).toEqual([0, 0]);
});

test("idle waits for those who run and those who wait", async () => {
  const slots = new Slots(1, 10, () => {});
  await slots.idle();
  const first = await slots.slot("a", never);
  const second = slots.slot("a", never);
  let idle = false;
  const watching = slots.idle().then(() => {
    idle = true;
  });
  first[Symbol.dispose]();
  await settle();
  expect(idle).toBe(false);
  (await second)[Symbol.dispose]();
  await watching;
});

test("giving back twice counts once", async () => {
  const counts: number[] = [];
  const slots = new Slots(1, 10, (running) => counts.push(running));
  const lease = await slots.slot("a", never);
  lease[Symbol.dispose]();
  lease[Symbol.dispose]();
  expect(counts).toEqual([1, 0]);
});

test("in any order of coming, going and leaving: bounds hold, sessions are exclusive, nobody is forgotten", async () => {
  const step = fc.record({
    kind: fc.constantFrom("slot", "session", "release", "abort"),
    session: fc.constantFrom(undefined, "a", "b"),
    which: fc.nat(20),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const slots = new Slots(2, 5, () => {});
      const held: { lease: Disposable; session: string | undefined; slot: boolean }[] = [];
      const waiting: AbortController[] = [];
      const check = () => {
        expect(held.filter((h) => h.slot).length).toBe(slots.running);
        expect(slots.running).toBeLessThanOrEqual(2);
        expect(slots.waiting).toBeLessThanOrEqual(5);
        const sessions = held.flatMap((h) => h.session ?? []);
        expect(new Set(sessions).size).toBe(sessions.length);
      };
      for (const { kind, session, which } of steps) {
        if (kind === "release") held.splice(which % Math.max(1, held.length), 1)[0]?.lease[Symbol.dispose]();
        else if (kind === "abort") waiting.splice(which % Math.max(1, waiting.length), 1)[0]?.abort(new Error("gone"));
        else {
          const slot = kind === "slot";
          const name = slot ? session : (session ?? "a");
          const gone = new AbortController();
          const asked = slot || name === undefined ? slots.slot(name, gone.signal) : slots.session(name, gone.signal);
          waiting.push(gone);
          asked.then(
            (lease) => held.push({ lease, session: name, slot }),
            () => {},
          );
        }
        await settle();
        check();
      }
      while (held.length > 0) {
        held.pop()?.lease[Symbol.dispose]();
        await settle();
        check();
      }
      await slots.idle();
      expect([slots.running, slots.waiting]).toEqual([0, 0]);
    }),
    { numRuns: 50 },
  );
});
