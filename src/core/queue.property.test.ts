import fc from "fast-check";
import { expect, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { LLMPoolError } from "../lib/errors.ts";
import { LEAD } from "./fair-share.ts";
import { InstanceQueue, type QueueItem, type Slot, type Ticket } from "./queue.ts";
import { Speed } from "./speed.ts";

interface Known {
  item: QueueItem;
  ticket: Ticket;
  arrival: number;
  slot: Slot | undefined;
  /** Counts starts. */
  start: number;
  gone: boolean;
}

/** Drives a real queue and keeps its own simple book of who waits and who runs. */
class World {
  readonly clock = new FakeClock();
  readonly speed = new Speed();
  slots: number;
  readonly limit: number;
  readonly queue: InstanceQueue;
  all: Known[] = [];
  paused = false;
  starts = 0;

  constructor(slots: number, limit: number) {
    this.slots = slots;
    this.limit = limit;
    this.queue = new InstanceQueue("0", this, { slots, waiting: limit });
  }

  get waiting(): Known[] {
    return this.all.filter((k) => !k.slot && !k.gone);
  }
  /** In the order they started. */
  get running(): Known[] {
    return this.all.filter((k) => k.slot && !k.gone).sort((a, b) => a.start - b.start);
  }
  /** Ends it, and returns what started in its stead. */
  async release(known: Known | undefined): Promise<Known[]> {
    const before = this.starts;
    if (known) known.gone = true;
    known?.slot?.release();
    await settle();
    return this.running.filter((k) => k.start >= before);
  }

  add(item: QueueItem): void {
    let ticket: Ticket;
    try {
      ticket = this.queue.enqueue(item);
    } catch (error) {
      expect(error).toBeInstanceOf(LLMPoolError);
      return;
    }
    const known: Known = { item, ticket, arrival: this.all.length, slot: undefined, start: -1, gone: false };
    this.all.push(known);
    ticket.slot.then(
      (slot) => {
        expect(this.clock.now(), "started after its deadline").toBeLessThan(item.deadline);
        known.slot = slot;
        known.start = this.starts++;
      },
      () => {
        known.gone = true;
      },
    );
  }

  /** A waiting request that nothing but a slot keeps from running. */
  runnable(known: Known): boolean {
    const { session } = known.item;
    if (session === undefined) return true;
    const earlier = (k: Known) => k.item.session === session && k.arrival < known.arrival;
    return !this.running.some((k) => k.item.session === session) && !this.waiting.some(earlier);
  }

  check(): void {
    const { running, waiting } = this;
    expect(this.queue.running).toBe(running.length);
    expect(this.queue.waiting).toBe(waiting.length);
    expect(waiting.length).toBeLessThanOrEqual(this.limit);
    const sessions = running.flatMap((k) => k.item.session ?? []);
    expect(new Set(sessions).size, "a session runs twice at once").toBe(sessions.length);
    for (const k of waiting) expect(k.item.deadline, "waits after its deadline").toBeGreaterThan(this.clock.now());
    if (!this.paused && running.length < this.slots) {
      expect(
        waiting.some((k) => this.runnable(k)),
        "a slot is empty while someone could run",
      ).toBe(false);
    }
    const positions = waiting.map((k) => k.ticket.position());
    for (const p of positions) expect(p).toBeGreaterThanOrEqual(1);
    for (const p of positions) expect(p).toBeLessThanOrEqual(Math.max(1, waiting.length));
  }
}

const item = fc.record({
  op: fc.constant("add" as const),
  flow: fc.constantFrom("a", "b", "c"),
  session: fc.constantFrom(undefined, "s", "t", "u"),
  timeout: fc.integer({ min: 1, max: 50 }),
});
const op = fc.oneof(
  { weight: 5, arbitrary: item },
  { weight: 4, arbitrary: fc.record({ op: fc.constant("release" as const), which: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("cancel" as const), which: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("advance" as const), ms: fc.integer({ min: 1, max: 30 }) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constantFrom("pause" as const, "resume" as const) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("slots" as const), slots: fc.integer({ min: 1, max: 4 }) }) },
);

test("bounded, no slot too many or idle, no session twice, nothing late, whatever happens", async () => {
  const limits = fc.tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 0, max: 6 }));
  await fc.assert(
    fc.asyncProperty(limits, fc.array(op, { maxLength: 60, size: "max" }), async ([slots, limit], ops) => {
      const world = new World(slots, limit);
      const { queue, clock } = world;
      for (const o of ops) {
        const before = queue.running;
        if (o.op === "add") {
          const { flow, session, timeout } = o;
          const deadline = clock.now() + timeout;
          world.add({ flow, deadline, deadlineCode: "request_timeout", prefillTokens: 0, ...(session && { session }) });
        } else if (o.op === "release") await world.release(at(world.running, o.which));
        else if (o.op === "cancel") at(world.waiting, o.which)?.ticket.cancel("cancelled");
        else if (o.op === "advance") clock.advance(o.ms);
        else if (o.op === "slots") {
          world.slots = o.slots;
          queue.resize({ slots: o.slots, waiting: limit });
        } else {
          world.paused = o.op === "pause";
          queue[o.op]();
        }
        await settle();
        expect(queue.running).toBeLessThanOrEqual(Math.max(before, world.slots));
        world.check();
      }
      queue.close();
      await settle();
      expect(queue.waiting).toBe(0);
    }),
    { numRuns: 300 },
  );
});

test("no starvation: a flow that waits starts before any other has started LEAD + 2 times, whatever their deadlines", async () => {
  const others = fc.array(fc.integer({ min: 1, max: 1000 }), { minLength: 1, maxLength: 5 });
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 3 }),
      others,
      fc.infiniteStream(fc.nat()),
      async (slots, timeouts, rnd) => {
        const world = new World(slots, 1000);
        const { clock } = world;
        const ask = (flow: string, deadline: number) =>
          world.add({ flow, deadline, deadlineCode: "request_timeout", prefillTokens: 0 });
        // Greedy flows always have requests waiting, each with an earlier deadline than the patient one's.
        const refill = () => {
          for (const [i, timeout] of timeouts.entries()) {
            while (world.waiting.filter((k) => k.item.flow === `g${i}`).length < slots + 1)
              ask(`g${i}`, clock.now() + timeout);
          }
        };
        refill();
        await settle();
        ask("patient", 1e9);
        const started = new Map<string, number>();
        const patient = () => world.all.find((k) => k.item.flow === "patient");
        while (!patient()?.slot) {
          for (const k of await world.release(at(world.running, rnd.next().value ?? 0))) {
            started.set(k.item.flow, (started.get(k.item.flow) ?? 0) + 1);
          }
          for (const count of started.values()) expect(count).toBeLessThanOrEqual(LEAD + 1);
          refill();
          await settle();
        }
      },
    ),
    { numRuns: 100 },
  );
});

test("equal shares in the long run: tiny timeouts and many requests earn a flow no more starts than another", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 2, max: 5 }), async (slots, flows) => {
      const world = new World(slots, 1000);
      const starts = new Map<string, number>();
      const rounds = 40;
      for (let i = 0; i < rounds * flows; i++) {
        for (let f = 0; f < flows; f++) {
          // Flow 0 asks for the tightest deadlines and has most requests waiting.
          while (world.waiting.filter((k) => k.item.flow === `${f}`).length < slots + (f === 0 ? 10 : 1)) {
            world.add({
              flow: `${f}`,
              deadline: world.clock.now() + 10 + 1000 * f,
              deadlineCode: "request_timeout",
              prefillTokens: 0,
            });
          }
        }
        await settle();
        // All take equally long.
        for (const k of await world.release(world.running[0])) {
          starts.set(k.item.flow, (starts.get(k.item.flow) ?? 0) + 1);
        }
      }
      const counts = [...starts.values()];
      expect(counts).toHaveLength(flows);
      expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(LEAD + 1 + slots);
    }),
    { numRuns: 40 },
  );
});

test("Retry-After is true: however many were refused, each that comes back when it was told finds a place", async () => {
  const given = fc.record({
    slots: fc.integer({ min: 1, max: 4 }),
    waiting: fc.integer({ min: 1, max: 6 }),
    serviceMs: fc.integer({ min: 100, max: 5_000 }),
    /** When those that run began, as parts of that time; and, in milliseconds after the line was full, when those come that are refused. */
    begun: fc.array(fc.double({ min: 0, max: 0.9, noNaN: true }), { minLength: 4, maxLength: 4 }),
    refused: fc.array(fc.nat(5_000), { minLength: 1, maxLength: 6 }),
  });
  await fc.assert(
    fc.asyncProperty(given, async ({ slots, waiting, serviceMs, begun, refused }) => {
      const clock = new FakeClock();
      const speed = new Speed();
      const queue = new InstanceQueue("0", { clock, speed }, { slots, waiting });
      speed.observeService(serviceMs);
      const item = { flow: "f", deadline: 1e9, deadlineCode: "request_timeout", prefillTokens: 0 } as const;
      // Each runs for exactly as long as was measured.
      const ask = () => {
        const came = clock.now();
        queue.enqueue(item).slot.then(
          (slot) => clock.after(came + slot.waitedMs + serviceMs - clock.now(), () => slot.release()),
          () => {},
        );
      };
      /** In small steps: what starts is seen before time goes on. */
      const pass = async (ms: number) => {
        for (let left = ms; left > 0; left -= 50) {
          clock.advance(Math.min(50, left));
          await settle();
        }
      };
      for (const part of begun.slice(0, slots)) clock.after(part * serviceMs, ask);
      await pass(0.95 * serviceMs);
      for (let i = 0; i < waiting; i++) ask();
      const outcomes: boolean[] = [];
      let newcomers = 0;
      for (const at of refused.slice(0, waiting)) {
        clock.after(at, () => {
          try {
            ask();
            newcomers++;
          } catch (error) {
            const { retryAfterSeconds = 0 } = error as LLMPoolError;
            clock.after(retryAfterSeconds * 1000, () => {
              try {
                ask();
                outcomes.push(true);
              } catch {
                outcomes.push(false);
              }
            });
          }
        });
      }
      await pass(5_000 + (2 * waiting + 1) * (serviceMs + 1_000));
      expect(queue.waiting).toBe(0);
      queue.close();
      // Nobody can tell who comes back from who is new, and got the place in between.
      fc.pre(newcomers === 0 && outcomes.length > 0);
      expect(outcomes).not.toContain(false);
    }),
    { numRuns: 30 },
  );
});

async function settle(): Promise<void> {
  for (let i = 0; i < 4; i++) await Promise.resolve();
}

function at<T>(list: T[], which: number): T | undefined {
  return list[which % Math.max(1, list.length)];
}
