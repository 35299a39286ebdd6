import { expect, onTestFinished, test } from "vitest";
import { EagerClock } from "../../test/support/eager-clock.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { silentLogger } from "../lib/logger.ts";
import { ApiError, ConnectionError } from "./errors.ts";
import { EventRecorder, type Notice, type RecorderOptions } from "./events.ts";
import type { KubeObject } from "./object.ts";

const pool = (uid = "u1", more: object = {}): KubeObject => ({
  apiVersion: "llmpool.dev/v1alpha1",
  kind: "LLMPool",
  metadata: { namespace: "ns", name: "apex", uid, resourceVersion: "7", ...more },
});
const notice: Notice = { type: "Normal", reason: "Created", action: "CreateInstances", note: "Created 5 instances." };

interface Call {
  verb: "create" | "merge";
  body: Record<string, unknown>;
  name: string;
}

function setup(options: { clock?: RecorderOptions["clock"] } = {}) {
  const clock = new FakeClock();
  const calls: Call[] = [];
  const failures: Error[] = [];
  const act = async (call: Call) => {
    const failure = failures.shift();
    if (failure) throw failure;
    calls.push(call);
    return call.body;
  };
  const client = {
    create: (object: KubeObject) => act({ verb: "create", body: { ...object }, name: object.metadata.name }),
    merge: (_: unknown, { name = "" }: { name?: string }, body: object) =>
      act({ verb: "merge", body: { ...body }, name }),
  } as unknown as RecorderOptions["client"];
  const recorder = new EventRecorder({
    client,
    controller: "llmpool.dev/operator",
    instance: "op-1",
    clock,
    log: silentLogger,
    ...options,
  });
  onTestFinished(() => recorder.close());
  return { clock, calls, failures, recorder };
}

test("an event carries all that the API wants of it", async () => {
  const { recorder, calls } = setup();
  recorder.record(pool(), { ...notice, related: pool("u2") });
  await recorder.flush();
  expect(calls).toEqual([
    {
      verb: "create",
      name: expect.stringMatching(/^apex\.[0-9a-f]{16}$/),
      body: {
        apiVersion: "events.k8s.io/v1",
        kind: "Event",
        metadata: { namespace: "ns", name: expect.any(String) },
        eventTime: "2026-01-01T00:00:00.000000Z",
        reportingController: "llmpool.dev/operator",
        reportingInstance: "op-1",
        type: "Normal",
        reason: "Created",
        action: "CreateInstances",
        note: "Created 5 instances.",
        regarding: expect.objectContaining({ kind: "LLMPool", name: "apex", namespace: "ns", uid: "u1" }),
        related: expect.objectContaining({ uid: "u2" }),
      },
    },
  ]);
});

test("the same notice again is one more of a series", async () => {
  const { recorder, calls, clock } = setup();
  for (let i = 0; i < 3; i++) {
    recorder.record(pool(), notice);
    await recorder.flush();
    clock.advance(1_000);
  }
  expect(calls.map(({ verb }) => verb)).toEqual(["create", "merge", "merge"]);
  expect(new Set(calls.map(({ name }) => name)).size).toBe(1);
  expect(calls[2]?.body).toEqual({ series: { count: 3, lastObservedTime: "2026-01-01T00:00:02.000000Z" } });
});

test("other words, another object, or the same after a long time are events of their own", async () => {
  const { recorder, calls, clock } = setup();
  recorder.record(pool(), notice);
  recorder.record(pool(), { ...notice, note: "Created 6 instances." });
  recorder.record(pool("u2"), notice);
  await recorder.flush();
  clock.advance(6 * 60_000);
  recorder.record(pool(), notice);
  await recorder.flush();
  expect(calls.map(({ verb }) => verb)).toEqual(["create", "create", "create", "create"]);
});

test("what repeats while it waits to be sent is sent once, with its count", async () => {
  const { recorder, calls } = setup();
  for (let i = 0; i < 20; i++) recorder.record(pool(), notice);
  await recorder.flush();
  // The first was under way already; the 19 others are one write.
  expect(calls.map(({ verb }) => verb)).toEqual(["create", "merge"]);
  expect(calls[1]?.body.series).toEqual(expect.objectContaining({ count: 20 }));
});

test("writes about one object are capped at 25 and one in five minutes; the count goes on, other objects do not pay", async () => {
  const { recorder, calls, clock } = setup();
  for (let i = 0; i < 100; i++) {
    recorder.record(pool(), notice);
    await recorder.flush();
  }
  expect(calls.length).toBe(25);
  recorder.record(pool("u2"), notice);
  await recorder.flush();
  expect(calls.length).toBe(26);
  clock.advance(300_000);
  recorder.record(pool(), notice);
  recorder.record(pool(), { ...notice, reason: "Other" });
  await recorder.flush();
  expect(calls.length).toBe(27);
  expect(calls[26]?.body.series).toEqual(expect.objectContaining({ count: 101 }));
});

test("a series whose event has expired goes on in a new one", async () => {
  const { recorder, calls, failures } = setup();
  recorder.record(pool(), notice);
  await recorder.flush();
  failures.push(new ApiError("PATCH", 404, { reason: "NotFound" }));
  recorder.record(pool(), notice);
  await recorder.flush();
  expect(calls.map(({ verb }) => verb)).toEqual(["create", "create"]);
  expect(calls[1]?.body.series).toEqual(expect.objectContaining({ count: 2 }));
});

test("a busy or absent server is asked three times, then the event is lost; a refusal loses it at once", async () => {
  const { recorder, calls, failures } = setup({ clock: new EagerClock() });
  const away = new ConnectionError("POST", new Error("refused"));
  failures.push(away, away);
  recorder.record(pool(), notice);
  await recorder.flush();
  expect(calls.length).toBe(1);
  failures.push(away, new ApiError("POST", 500), away, new ApiError("POST", 403, { reason: "Forbidden" }));
  recorder.record(pool("u2"), notice);
  recorder.record(pool("u3"), notice);
  recorder.record(pool("u4"), notice);
  await recorder.flush();
  expect(calls.length).toBe(2);
});

test("long notes are cut at the server's limit, in bytes and between characters", async () => {
  const { recorder, calls } = setup();
  recorder.record(pool(), { ...notice, note: "ä".repeat(2_000) });
  await recorder.flush();
  const note = String(calls[0]?.body.note);
  expect(Buffer.byteLength(note)).toBeLessThanOrEqual(1024);
  expect(note).toMatch(/^ä+…$/);
});

test("what has no namespace is told of in `default`", async () => {
  const { recorder, calls } = setup();
  recorder.record({ apiVersion: "v1", kind: "Node", metadata: { name: "n1", uid: "n" } }, notice);
  await recorder.flush();
  expect(calls[0]?.body.metadata).toEqual(expect.objectContaining({ namespace: "default" }));
});

test("a closed recorder takes nothing and throws nothing", async () => {
  const { recorder, calls } = setup();
  await recorder.close();
  await recorder.close();
  recorder.record(pool(), notice);
  await recorder.flush();
  expect(calls).toEqual([]);
});
