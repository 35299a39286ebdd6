import fc from "fast-check";
import { expect, test } from "vitest";
import { pickFair } from "./fair-share.ts";
import { Flows } from "./flows.ts";
import type { Entry, FlowLine } from "./queue-entry.ts";

/** What flows look at of an entry. */
interface Head {
  flow: FlowLine;
  deadline: number;
  arrivedAt: number;
  arrival: number;
}

const asEntry = (head: Head) => head as unknown as Entry;

const op = fc.record({
  kind: fc.constantFrom("wait", "wait", "wait", "start", "start", "end", "leave", "deadline"),
  which: fc.nat(50),
  flow: fc.nat(5),
  deadline: fc.nat(20),
});

test("picks as pickFair does of all heads, whichever came, left, ran and moved", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 4 }), fc.array(op, { maxLength: 120, size: "max" }), (slots, ops) => {
      const flows = new Flows();
      const waiting: Head[] = [];
      const running: FlowLine[] = [];
      let floor = 0;
      let arrivals = 0;
      const leave = (head: Head) => {
        waiting.splice(waiting.indexOf(head), 1);
        flows.unready(asEntry(head));
      };
      /** The rule over every head, as it is written down. */
      const want = () => {
        const heads = [...new Set(waiting.map(({ flow }) => flow))].map((flow) => {
          const head = waiting.find((h) => h.flow === flow);
          return { ...(head as Head), flow: { running: flow.running, turns: Math.max(flow.turns, floor) } };
        });
        const known = new Set([...waiting.map(({ flow }) => flow), ...running]).size;
        const picked = pickFair(heads, slots / known);
        floor = Math.max(floor, picked?.floor ?? 0);
        return picked?.pick.arrival;
      };
      for (const { kind, which, flow: key, deadline } of ops) {
        if (kind === "wait") {
          const flow = flows.of(`${key}`);
          const head = { flow, deadline, arrivedAt: 0, arrival: arrivals++ };
          waiting.push(head);
          flow.waiting.push(asEntry(head));
          flows.makeReady(asEntry(head));
        } else if (kind === "start") {
          if (running.length >= slots) continue;
          const expected = want();
          const pick = flows.pick(slots) as Head | undefined;
          expect(pick?.arrival).toBe(expected);
          if (!pick) continue;
          leave(pick);
          pick.flow.waiting.splice(pick.flow.waiting.indexOf(asEntry(pick)), 1);
          flows.started(pick.flow);
          running.push(pick.flow);
        } else if (kind === "end") {
          const [flow] = running.splice(which % Math.max(1, running.length), 1);
          if (flow) flows.ended(flow);
        } else {
          const head = waiting[which % Math.max(1, waiting.length)];
          if (!head) continue;
          if (kind === "deadline") {
            head.deadline = deadline;
            flows.changed(head.flow);
          } else {
            leave(head);
            head.flow.waiting.splice(head.flow.waiting.indexOf(asEntry(head)), 1);
          }
        }
        for (let i = 0; i <= 5; i++) flows.forget(`${i}`);
      }
    }),
    { numRuns: 500 },
  );
});

test("with a thousand flows a pick looks at a handful of them", () => {
  let looks = 0;
  class Counted implements Head {
    readonly arrivedAt = 0;
    readonly arrival: number;
    readonly flow: FlowLine;
    readonly #deadline: number;
    constructor(flow: FlowLine, arrival: number) {
      this.flow = flow;
      this.arrival = arrival;
      this.#deadline = (arrival * 7919) % 1000;
    }
    get deadline(): number {
      looks++;
      return this.#deadline;
    }
  }
  const flows = new Flows();
  let arrivals = 0;
  const wait = (key: number) => {
    const entry = asEntry(new Counted(flows.of(`${key}`), arrivals++));
    entry.flow.waiting.push(entry);
    flows.makeReady(entry);
  };
  for (let key = 0; key < 1000; key++) wait(key);
  const running: Entry[] = [];
  looks = 0;
  const picks = 5_000;
  for (let i = 0; i < picks; i++) {
    if (running.length === 4) {
      const ended = running.shift();
      if (ended) flows.ended(ended.flow);
    }
    const pick = flows.pick(4);
    if (!pick) return expect.unreachable();
    flows.unready(pick);
    pick.flow.waiting.shift();
    flows.started(pick.flow);
    running.push(pick);
    wait(i % 1000);
  }
  // A look at each of them would be a thousand; ten comparisons up or down a heap of a thousand, of two deadlines each, a few times over.
  expect(looks / picks).toBeLessThan(120);
});
