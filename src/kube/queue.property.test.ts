import fc from "fast-check";
import { expect, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { WorkQueue } from "./queue.ts";

/** A real queue beside the plainest book of what it owes: keys wanted now, keys wanted at an instant, keys being worked on. */
class World {
  readonly clock = new FakeClock();
  readonly queue = new WorkQueue({ name: "q", clock: this.clock, random: () => 0.5 });
  readonly wanted = new Set<string>();
  readonly later = new Map<string, number>();
  readonly working = new Set<string>();

  add(key: string): void {
    this.queue.add(key);
    this.wanted.add(key);
  }

  addAfter(key: string, ms: number): void {
    this.queue.addAfter(key, ms);
    this.#wantAt(key, this.clock.now() + ms);
  }

  retry(key: string): void {
    this.#wantAt(key, this.clock.now() + this.queue.retry(key));
  }

  advance(ms: number): void {
    this.clock.advance(ms);
    for (const [key, at] of this.later) {
      if (at > this.clock.now()) continue;
      this.later.delete(key);
      this.wanted.add(key);
    }
  }

  /** Takes only what the book says is there: otherwise the worker would wait for ever. */
  async take(): Promise<void> {
    const free = [...this.wanted].filter((key) => !this.working.has(key));
    expect(this.queue.depth).toBe(free.length);
    if (free.length === 0) return;
    const key = await this.queue.take();
    expect(free).toContain(key);
    this.wanted.delete(key ?? "");
    this.working.add(key ?? "");
  }

  done(index: number): void {
    const key = [...this.working][index % Math.max(1, this.working.size)];
    if (key === undefined) return;
    this.queue.done(key);
    this.working.delete(key);
  }

  #wantAt(key: string, at: number): void {
    this.later.set(key, Math.min(at, this.later.get(key) ?? Number.POSITIVE_INFINITY));
  }
}

const key = fc.constantFrom("a", "b", "c", "d");
const step = fc.oneof(
  fc.record({ do: fc.constant("add" as const), key }),
  fc.record({ do: fc.constant("addAfter" as const), key, ms: fc.integer({ min: 1, max: 5_000 }) }),
  fc.record({ do: fc.constant("retry" as const), key }),
  fc.record({ do: fc.constant("advance" as const), ms: fc.nat({ max: 3_000 }) }),
  fc.record({ do: fc.constant("take" as const) }),
  fc.record({ do: fc.constant("done" as const), index: fc.nat({ max: 3 }) }),
);

test("no wish is lost, none is doubled, and no key is with two workers, whatever happens in whatever order", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 80 }), async (steps) => {
      const world = new World();
      for (const step of steps) {
        if (step.do === "add") world.add(step.key);
        else if (step.do === "addAfter") world.addAfter(step.key, step.ms);
        else if (step.do === "retry") world.retry(step.key);
        else if (step.do === "advance") world.advance(step.ms);
        else if (step.do === "done") world.done(step.index);
        else await world.take();
      }
      world.advance(2_000_000);
      while (world.working.size > 0) world.done(0);
      while (world.wanted.size > 0) await world.take();
      expect(world.queue.depth).toBe(0);
    }),
    { numRuns: 300 },
  );
});
