import { expect, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { settle } from "../../test/support/settle.ts";
import { makeMetrics } from "../lib/metrics.ts";
import { makeKubeMetrics } from "./metrics.ts";
import { WorkQueue } from "./queue.ts";

function setup() {
  const clock = new FakeClock();
  const queue = new WorkQueue({ name: "q", clock, random: () => 0 });
  /** Keys given out by now, with one taker that always comes back. */
  const taken: string[] = [];
  const serve = async (finish: (key: string) => void = (key) => queue.done(key)) => {
    for (;;) {
      const key = await queue.take();
      if (key === undefined) return;
      taken.push(key);
      finish(key);
    }
  };
  return { clock, queue, taken, serve };
}

test("a key waits once, however often it is added", async () => {
  const { queue, taken, serve } = setup();
  for (const key of ["a", "b", "a", "a", "b"]) queue.add(key);
  expect(queue.depth).toBe(2);
  void serve();
  await settle();
  expect(taken).toEqual(["a", "b"]);
});

test("a key added while it is worked on comes again after that work, and to no second worker meanwhile", async () => {
  const { queue, taken, serve } = setup();
  queue.add("a");
  void serve(() => {});
  void serve(() => {});
  await settle();
  queue.add("a");
  queue.add("a");
  await settle();
  expect(taken).toEqual(["a"]);
  queue.done("a");
  await settle();
  expect(taken).toEqual(["a", "a"]);
  queue.done("a");
  await settle();
  expect(taken).toEqual(["a", "a"]);
});

test("of several later times the earliest counts, and the key comes once", async () => {
  const { clock, queue, taken, serve } = setup();
  void serve();
  queue.addAfter("a", 500);
  queue.addAfter("a", 200);
  queue.addAfter("a", 900);
  clock.advance(199);
  await settle();
  expect(taken).toEqual([]);
  clock.advance(1);
  await settle();
  expect(taken).toEqual(["a"]);
  clock.advance(10_000);
  await settle();
  expect(taken).toEqual(["a"]);
});

test("retries of one key wait longer each time, until it is forgotten", () => {
  const { queue } = setup();
  expect([1, 2, 3].map(() => queue.retry("a"))).toEqual([5, 10, 20]);
  expect(queue.retry("b")).toBe(5);
  expect(queue.failures("a")).toBe(3);
  queue.forget("a");
  expect(queue.retry("a")).toBe(5);
});

test("retries of all keys together keep to 10 a second after the first 100; new keys do not wait for them", async () => {
  const { clock, queue, taken, serve } = setup();
  void serve();
  for (let i = 0; i < 300; i++) queue.retry(`k${i}`);
  clock.advance(5);
  await settle();
  expect(taken.length).toBe(100);
  queue.add("new");
  await settle();
  expect(taken.at(-1)).toBe("new");
  clock.advance(10_000 - 5);
  await settle();
  expect(taken.length).toBe(1 + 200);
  clock.advance(10_000);
  await settle();
  expect(taken.length).toBe(1 + 300);
});

test("a retry waits at least as long as the server asked", () => {
  const { queue } = setup();
  expect(queue.retry("a", 7_000)).toBe(7_000);
});

test("a wait longer than a timer can hold does not come early", async () => {
  const { clock, queue, taken, serve } = setup();
  const days = 40 * 86_400_000;
  const short = 2 ** 31 - 1;
  const { after } = clock;
  clock.after = (ms, run) => after.call(clock, Math.min(ms, short), run);
  void serve();
  queue.addAfter("a", days);
  clock.advance(short + 1);
  await settle();
  expect(taken).toEqual([]);
  clock.advance(days - short - 1);
  await settle();
  expect(taken).toEqual(["a"]);
});

test("a closed queue sends its workers home and takes nothing", async () => {
  const { clock, queue, taken, serve } = setup();
  const served = serve();
  queue.addAfter("later", 10);
  await settle();
  queue.close();
  queue.close();
  await served;
  queue.add("a");
  queue.addAfter("b", 1);
  clock.advance(1_000);
  expect(await queue.take()).toBeUndefined();
  expect(taken).toEqual([]);
});

test("metrics tell what waits, how long it waited and how long work takes", async () => {
  const clock = new FakeClock();
  const metrics = makeMetrics();
  const queue = new WorkQueue({ name: "q", clock, random: () => 0, metrics: makeKubeMetrics(metrics) });
  queue.add("a");
  queue.add("b");
  clock.advance(2_000);
  await queue.take();
  clock.advance(3_000);
  let text = await metrics.expose();
  expect(text).toContain('workqueue_depth{name="q"} 1');
  expect(text).toContain('workqueue_adds_total{name="q"} 2');
  expect(text).toContain('workqueue_queue_duration_seconds_sum{name="q"} 2');
  expect(text).toContain('workqueue_longest_running_processor_seconds{name="q"} 3');
  queue.retry("a");
  queue.done("a");
  text = await metrics.expose();
  expect(text).toContain('workqueue_work_duration_seconds_sum{name="q"} 3');
  expect(text).toContain('workqueue_retries_total{name="q"} 1');
  expect(text).toContain('workqueue_unfinished_work_seconds{name="q"} 0');
});
