import { expect, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { settle } from "../../test/support/settle.ts";
import { runDoubted } from "./doubt.ts";

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
  const seen = { silent: 0, outcome: [] as unknown[] };
  runDoubted({ clock, open, onSilent: () => void seen.silent++ }, abort.signal).then(
    () => seen.outcome.push("ended"),
    (error) => seen.outcome.push(error),
  );
  const at = (i: number) => {
    const stream = streams[i];
    if (!stream) throw new Error(`no stream ${i}`);
    return stream;
  };
  const alive = () => streams.flatMap(({ signal }, i) => (signal.aborted ? [] : [i]));
  return { clock, streams, at, abort, seen, alive };
}

test("a stream that speaks is left alone, and ends when it ends", async () => {
  const { clock, streams, at, seen } = setup();
  for (let i = 0; i < 20; i++) {
    clock.advance(39_000);
    at(0).speaks();
  }
  expect(streams.length).toBe(1);
  at(0).end();
  await settle();
  expect(seen).toEqual({ silent: 0, outcome: ["ended"] });
});

test("a silent stream gets a second after 40 s, and goes when that speaks first", async () => {
  const { clock, at, alive, seen } = setup();
  clock.advance(39_999);
  expect(alive()).toEqual([0]);
  clock.advance(1);
  expect(alive()).toEqual([0, 1]);
  at(1).speaks();
  expect(alive()).toEqual([1]);
  expect(seen.silent).toBe(1);
  at(1).end();
  await settle();
  expect(seen.outcome).toEqual(["ended"]);
});

test("a stream that was only quiet stays, and the second goes", () => {
  const { clock, streams, at, alive, seen } = setup();
  for (let minute = 1; minute <= 3; minute++) {
    clock.advance(60_000);
    expect(alive()).toEqual([0, minute]);
    at(0).speaks();
    expect(alive()).toEqual([0]);
  }
  expect(streams.length).toBe(4);
  expect(seen).toEqual({ silent: 0, outcome: [] });
});

test("where nothing ever happens each stream lives 80 s, there are never more than two, and none of it is an end", async () => {
  const { clock, alive, seen } = setup();
  const lives: number[][] = [];
  for (let i = 0; i < 5; i++) {
    clock.advance(40_000);
    lives.push(alive());
  }
  await settle();
  expect(lives).toEqual([
    [0, 1],
    [1, 2],
    [2, 3],
    [3, 4],
    [4, 5],
  ]);
  expect(seen).toEqual({ silent: 0, outcome: [] });
});

test("a second stream that fails is the end of the first: the server does not answer, or the version is too old", async () => {
  const { clock, at, alive, seen } = setup();
  clock.advance(40_000);
  const refused = new Error("refused");
  at(1).fail(refused);
  await settle();
  expect(seen.outcome).toEqual([refused]);
  expect(alive()).toEqual([1]);
  expect(at(0).signal.reason).toBe(refused);
});

test("a stream that ends while it is doubted leaves the second", async () => {
  const { clock, at, seen } = setup();
  clock.advance(40_000);
  at(0).end();
  await settle();
  expect(seen.outcome).toEqual([]);
  at(1).fail(new Error("reset"));
  await settle();
  expect(seen.outcome).toEqual([new Error("reset")]);
});

test("an abort ends both with its reason, and nothing begins after it", async () => {
  const { clock, streams, at, abort, seen } = setup();
  clock.advance(40_000);
  const reason = new Error("closed");
  abort.abort(reason);
  await settle();
  expect(seen.outcome).toEqual([reason]);
  expect([at(0).signal.reason, at(1).signal.reason]).toEqual([reason, reason]);
  clock.advance(200_000);
  expect(streams.length).toBe(2);
});
