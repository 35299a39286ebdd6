import { expect, onTestFinished, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { settle } from "../../test/support/settle.ts";
import { silentLogger } from "../lib/logger.ts";
import { makeMetrics } from "../lib/metrics.ts";
import { Controller, type ControllerOptions, type Reconcile, UnfinishedError } from "./controller.ts";
import { ApiError } from "./errors.ts";
import { Expectations } from "./expectations.ts";
import { makeKubeMetrics } from "./metrics.ts";

function setup(reconcile: Reconcile, more: Partial<ControllerOptions> = {}) {
  const clock = new FakeClock();
  const metrics = makeMetrics();
  const controller = new Controller({
    name: "c",
    reconcile,
    informers: [],
    clock,
    random: () => 0,
    log: silentLogger,
    metrics: makeKubeMetrics(metrics),
    ...more,
  });
  onTestFinished(async () => {
    const closing = controller.close();
    clock.advance(10_000);
    await closing;
  });
  const pass = async (ms: number) => {
    clock.advance(ms);
    await settle();
  };
  return { clock, metrics, controller, pass };
}

test("nothing is reconciled before every informer is synced", async () => {
  const seen: string[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  const informers = [{ whenSynced: async () => {} }, { whenSynced: () => promise }];
  const { controller, pass } = setup(
    async (key) => {
      seen.push(key);
      return {};
    },
    { informers },
  );
  controller.queue.add("a");
  controller.start();
  await pass(60_000);
  expect(seen).toEqual([]);
  resolve();
  await settle();
  expect(seen).toEqual(["a"]);
});

test("a failure is tried again, later each time; a success starts over", async () => {
  let fails = 3;
  let calls = 0;
  const { controller, pass, metrics } = setup(async () => {
    calls++;
    if (fails-- > 0) throw new Error("no");
    return {};
  });
  controller.start();
  controller.queue.add("a");
  await settle();
  for (const [ms, want] of [
    [4, 1],
    [1, 2],
    [9, 2],
    [1, 3],
    [20, 4],
    [300_000, 4],
  ] as const) {
    await pass(ms);
    expect(calls).toBe(want);
  }
  expect(controller.queue.failures("a")).toBe(0);
  const text = await metrics.expose();
  expect(text).toContain('controller_runtime_reconcile_total{controller="c",result="error"} 3');
  expect(text).toContain('controller_runtime_reconcile_total{controller="c",result="success"} 1');
  expect(text).toContain('controller_runtime_reconcile_errors_total{controller="c"} 3');
});

test("a reconcile can ask to be called again", async () => {
  let calls = 0;
  const { controller, pass } = setup(async () => (++calls < 3 ? { requeueAfterMs: 5_000 } : {}));
  controller.start();
  controller.queue.add("a");
  await settle();
  await pass(4_999);
  expect(calls).toBe(1);
  await pass(1);
  expect(calls).toBe(2);
  await pass(60_000);
  expect(calls).toBe(3);
});

const busy = (seconds: string) => new ApiError("PATCH /x", 429, { reason: "TooManyRequests" }, seconds);

/** After a first call that fails so, the next one comes when 20 s have passed, and no earlier. */
async function waitsTwentySeconds(error: Error): Promise<void> {
  let calls = 0;
  const { controller, pass } = setup(async () => {
    if (++calls === 1) throw error;
    return {};
  });
  controller.start();
  controller.queue.add("a");
  await settle();
  await pass(19_999);
  expect(calls).toBe(1);
  await pass(1);
  expect(calls).toBe(2);
}

test("a server that asks for patience gets it", () => waitsTwentySeconds(busy("20")));

test("a server that asks for patience gets it, also for several failures at once", () =>
  waitsTwentySeconds(new AggregateError([busy("5"), new ApiError("PATCH /y", 409), busy("20")])));

test("what has failed often is tried again in time where its reconcile says so, unless a server asks for more", async () => {
  let calls = 0;
  let seconds: string | undefined;
  const { controller, pass } = setup(async () => {
    calls++;
    throw new UnfinishedError([new ApiError("PATCH /x", 500, {}, seconds)], "x", 8_000);
  });
  controller.start();
  // Events that come meanwhile make many failures of it.
  for (let i = 0; i < 20; i++) {
    controller.queue.add("a");
    await settle();
  }
  expect(calls).toBe(20);
  seconds = "60";
  await pass(8_000);
  expect(calls).toBe(21);
  await pass(59_000);
  expect(calls).toBe(21);
});

test("one key that throws or hangs holds up no other, and is never with two workers", async () => {
  const calls: Record<string, number> = {};
  const now: Record<string, number> = {};
  const { controller, pass, metrics } = setup(
    async (key) => {
      calls[key] = (calls[key] ?? 0) + 1;
      now[key] = (now[key] ?? 0) + 1;
      expect(now[key]).toBe(1);
      try {
        // Ignores its signal, for ever.
        if (key === "hangs") await new Promise(() => {});
        if (key === "throws") throw new Error("always");
        if (key === "throws early") (undefined as unknown as () => void)();
        return {};
      } finally {
        now[key] = (now[key] ?? 0) - 1;
      }
    },
    { workers: 1 },
  );
  controller.start();
  for (const key of ["throws", "throws early", "hangs"]) controller.queue.add(key);
  await settle();
  controller.queue.add("good");
  await pass(30_000);
  expect(calls.good).toBeUndefined();
  await pass(1_000);
  expect(calls.good).toBe(1);
  for (let minute = 0; minute < 10; minute++) {
    controller.queue.add("good");
    controller.queue.add("hangs");
    await pass(60_000);
    expect(calls.good).toBe(minute + 2);
  }
  expect(calls.hangs).toBe(1);
  expect(calls.throws).toBeGreaterThan(5);
  expect(await metrics.expose()).toContain('controller_runtime_reconcile_timeouts_total{controller="c"} 1');
});

test("a reconcile that heeds its signal is aborted at 30 s and tried again", async () => {
  let calls = 0;
  const { controller, pass } = setup(async (_, signal) => {
    calls++;
    await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    return {};
  });
  controller.start();
  controller.queue.add("a");
  await settle();
  await pass(29_999);
  expect(calls).toBe(1);
  await pass(1);
  await pass(5);
  expect(calls).toBe(2);
});

test("a key whose caches are older than its own last write waits for them; others do not", async () => {
  const seen: string[] = [];
  const cache = { version: "5", listedAt: 0, get: () => undefined, relist() {} };
  const clock = new FakeClock();
  const expectations = new Expectations(clock);
  const { controller, pass } = setup(
    async (key) => {
      seen.push(key);
      return {};
    },
    { expectations, clock },
  );
  clock.advance(1);
  const metadata = { name: "p", uid: "u", resourceVersion: "9" };
  expectations.wrote("a", cache, { apiVersion: "v1", kind: "Pod", metadata });
  controller.start();
  controller.queue.add("a");
  controller.queue.add("b");
  await settle();
  clock.advance(10_000);
  await pass(0);
  expect(seen).toEqual(["b"]);
  cache.version = "9";
  clock.advance(1_000);
  await settle();
  expect(seen).toEqual(["b", "a"]);
});

test("close aborts what is going on, starts nothing more and can be called twice", async () => {
  const seen: string[] = [];
  let aborted = 0;
  const { controller } = setup(async (key, signal) => {
    seen.push(key);
    await new Promise((_, reject) =>
      signal.addEventListener("abort", () => {
        aborted++;
        reject(signal.reason);
      }),
    );
    return {};
  });
  controller.start();
  for (const key of ["a", "b", "c", "d", "e"]) controller.queue.add(key);
  await settle();
  await Promise.all([controller.close(), controller.close()]);
  expect(seen).toEqual(["a", "b", "c", "d"]);
  expect(aborted).toBe(4);
});

test("close before the informers are synced ends too", async () => {
  const informers = [
    {
      whenSynced: (signal: AbortSignal) =>
        new Promise<void>((_, reject) => signal.addEventListener("abort", () => reject(signal.reason))),
    },
  ];
  const { controller } = setup(async () => ({}), { informers });
  controller.start();
  await controller.close();
});
