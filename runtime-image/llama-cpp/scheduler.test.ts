import { expect, it } from "vitest";
import { ChunkSizer } from "./chunk-sizer.ts";
import { Scheduler, type Step } from "./scheduler.ts";

const never = new AbortController().signal;

function makeScheduler(most = 8) {
  const steps: Step[] = [];
  let now = 0;
  const scheduler = new Scheduler(
    new ChunkSizer(most),
    () => now,
    (step) => steps.push(step),
  );
  /** An engine that takes 10 ms a token. */
  const evaluate = async (from: number, to: number) => {
    now += 10 * (to - from);
  };
  return { scheduler, steps, evaluate };
}

/** A session that decodes `count` tokens, one after another. */
async function decodeMany(scheduler: Scheduler, label: string, count: number): Promise<void> {
  for (let i = 0; i < count; i++) await scheduler.decode(label, async () => i, never);
}

it("gives a decoding session a step after every chunk of another's prompt", async () => {
  const { scheduler, steps, evaluate } = makeScheduler();
  await Promise.all([decodeMany(scheduler, "talker", 12), scheduler.prefill("reader", 60, evaluate, never)]);
  const kinds = steps.map((s) => s.kind);
  expect(kinds.filter((k) => k === "prefill").length).toBeGreaterThan(5);
  for (let i = 1; i < kinds.length; i++) {
    const talkerDone = kinds.slice(0, i).filter((k) => k === "decode").length >= 12;
    if (kinds[i] === "prefill" && !talkerDone) expect(kinds[i - 1]).toBe("decode");
  }
});

it("puts the steps of all who decode into one batch", async () => {
  const { scheduler, steps } = makeScheduler();
  await Promise.all(["a", "b", "c"].map((label) => decodeMany(scheduler, label, 5)));
  expect(steps).toEqual(Array(5).fill({ kind: "decode", labels: ["a", "b", "c"] }));
});

it("makes chunks smaller while others decode", async () => {
  const { scheduler, steps, evaluate } = makeScheduler(64);
  await scheduler.prefill("measure", 64, evaluate, never);
  await scheduler.prefill("alone", 60, evaluate, never);
  await Promise.all([decodeMany(scheduler, "talker", 20), scheduler.prefill("shared", 30, evaluate, never)]);
  const sizes = (label: string) => steps.flatMap((s) => (s.kind === "prefill" && s.label === label ? [s.tokens] : []));
  expect(Math.max(...sizes("alone"))).toBe(15);
  expect(Math.max(...sizes("shared"))).toBe(7);
});

it("serves the prompt with the fewest tokens left, but never forgets the oldest", async () => {
  const { scheduler, steps, evaluate } = makeScheduler();
  const ends: string[] = [];
  const read = (label: string, tokens: number) =>
    scheduler.prefill(label, tokens, evaluate, never).then(() => void ends.push(label));
  await Promise.all([read("cold", 200), read("next turn", 6), read("middle", 60)]);
  expect(ends).toEqual(["next turn", "middle", "cold"]);
  const beforeMiddleEnds = steps.slice(
    0,
    steps.findLastIndex((s) => s.kind === "prefill" && s.label === "middle"),
  );
  expect(beforeMiddleEnds.some((s) => s.kind === "prefill" && s.label === "cold")).toBe(true);
});

it("stops a prompt between two chunks, and at once while it waits", async () => {
  const { scheduler, steps, evaluate } = makeScheduler();
  const [running, waiting] = [new AbortController(), new AbortController()];
  let evaluated = 0;
  const first = scheduler.prefill(
    "running",
    80,
    async (from, to) => {
      await evaluate(from, to);
      evaluated = to;
      if (to >= 16) {
        running.abort(new Error("cancelled"));
        waiting.abort(new Error("gone"));
      }
    },
    running.signal,
  );
  const second = scheduler.prefill("waiting", 500, evaluate, waiting.signal);
  await expect(first).rejects.toThrow("cancelled");
  await expect(second).rejects.toThrow("gone");
  expect(evaluated).toBe(16);
  await scheduler.idle();
  expect(steps.filter((s) => s.kind === "prefill" && s.label === "running")).toHaveLength(2);
});

it("finishes a step that began, and drops one that did not", async () => {
  const { scheduler } = makeScheduler();
  const abort = new AbortController();
  let ran = 0;
  const began = scheduler.decode(
    "a",
    async () => {
      abort.abort(new Error("cancelled"));
      return ++ran;
    },
    abort.signal,
  );
  await expect(began).resolves.toBe(1);
  await expect(scheduler.decode("a", async () => ++ran, abort.signal)).rejects.toThrow("cancelled");
  expect(ran).toBe(1);
});

it("goes on after a failed chunk and a failed step", async () => {
  const { scheduler, evaluate } = makeScheduler();
  const failed = scheduler.prefill("bad", 8, () => Promise.reject(new Error("no slot")), never);
  const step = scheduler.decode("bad", () => Promise.reject(new Error("no logits")), never);
  const good = scheduler.prefill("good", 80, evaluate, never);
  await expect(failed).rejects.toThrow("no slot");
  await expect(step).rejects.toThrow("no logits");
  await good;
});
