import { expect, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { settle } from "../../test/support/settle.ts";
import { runDoubted, SilentError } from "./doubt.ts";
import { ApiError } from "./errors.ts";

interface Stream {
  speaks(): void;
  signal: AbortSignal;
  end(): void;
  fail(error: Error): void;
}

function setup() {
  const clock = new FakeClock();
  const streams: Stream[] = [];
  const abort = new AbortController();
  const open = (speaks: () => void, signal: AbortSignal) => {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    signal.addEventListener("abort", () => reject(signal.reason));
    streams.push({ speaks, signal, end: resolve, fail: reject });
    return promise;
  };
  const outcome: unknown[] = [];
  runDoubted(clock, open, abort.signal).then(
    () => outcome.push("ended"),
    (error) => outcome.push(error),
  );
  const at = (i: number) => {
    const stream = streams[i];
    if (!stream) throw new Error(`no stream ${i}`);
    return stream;
  };
  return { clock, streams, at, abort, outcome };
}

test("a stream that speaks is left alone, and ends when it ends", async () => {
  const { clock, streams, at, outcome } = setup();
  for (let i = 0; i < 20; i++) {
    clock.advance(39_000);
    at(0).speaks();
  }
  expect(streams.length).toBe(1);
  at(0).end();
  await settle();
  expect(outcome).toEqual(["ended"]);
});

test("a silent stream gets a rival after 40 s, and goes when the rival speaks first", async () => {
  const { clock, streams, at, outcome } = setup();
  clock.advance(40_000);
  expect(streams.length).toBe(2);
  at(1).speaks();
  expect(at(0).signal.aborted).toBe(true);
  await settle();
  expect(outcome).toEqual([]);
  at(1).end();
  await settle();
  expect(outcome).toEqual(["ended"]);
});

test("a stream that was only quiet stays, and its rival goes", async () => {
  const { clock, streams, at, outcome } = setup();
  for (let minute = 0; minute < 3; minute++) {
    clock.advance(60_000);
    at(0).speaks();
    expect(at(0).signal.aborted).toBe(false);
    expect(at(streams.length - 1).signal.aborted).toBe(true);
  }
  await settle();
  expect(outcome).toEqual([]);
});

test("two silent streams are the end", async () => {
  const { clock, at, outcome } = setup();
  clock.advance(80_000);
  await settle();
  expect(outcome).toEqual([expect.any(SilentError)]);
  expect([at(0).signal.aborted, at(1).signal.aborted]).toEqual([true, true]);
});

test("a rival that fails does not end the stream it doubted", async () => {
  const { clock, at, outcome } = setup();
  clock.advance(40_000);
  at(1).fail(new Error("refused"));
  await settle();
  expect(outcome).toEqual([]);
  at(0).speaks();
  at(0).fail(new Error("reset"));
  await settle();
  expect(outcome).toEqual([new Error("reset")]);
});

test("a stream that stays silent while its rival fails is the end, too", async () => {
  const { clock, streams, at, outcome } = setup();
  clock.advance(40_000);
  at(1).fail(new Error("refused"));
  await settle();
  clock.advance(40_000);
  await settle();
  expect(outcome).toEqual([expect.any(SilentError)]);
  expect(streams.length).toBe(2);
});

test("a version that is too old for the rival ends both at once", async () => {
  const { clock, at, outcome } = setup();
  clock.advance(40_000);
  const gone = new ApiError("WATCH", 410, { reason: "Expired" });
  at(1).fail(gone);
  await settle();
  expect(outcome).toEqual([gone]);
  expect(at(0).signal.aborted).toBe(true);
});

test("a stream that ends while it is doubted leaves its rival", async () => {
  const { clock, at, outcome } = setup();
  clock.advance(40_000);
  at(0).end();
  await settle();
  expect(outcome).toEqual([]);
  at(1).end();
  await settle();
  expect(outcome).toEqual(["ended"]);
});

test("an abort ends both with its reason", async () => {
  const { clock, at, abort, outcome } = setup();
  clock.advance(40_000);
  const reason = new Error("closed");
  abort.abort(reason);
  await settle();
  expect(outcome).toEqual([reason]);
  expect([at(0).signal.reason, at(1).signal.reason]).toEqual([reason, reason]);
});
