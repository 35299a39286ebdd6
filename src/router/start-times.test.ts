import { expect, test } from "vitest";
import type { Endpoint } from "../core/endpoint.ts";
import { noteStart, readyInMs } from "./start-times.ts";

function placeOf(endpoint: Partial<Endpoint> | undefined, known: { startsSince?: number; startMs?: number } = {}) {
  const whole = { uid: "u", id: "0", variant: "default", url: "", state: "Ready" as const, restarts: 0, ...endpoint };
  return {
    endpoint: endpoint && whole,
    suspect: undefined as string | undefined,
    suspectUntil: 0,
    startsSince: known.startsSince,
    startMs: known.startMs,
  };
}

test("what stopped with a restart ahead is back after that, and after as long as its last start took", () => {
  expect(readyInMs(placeOf({ state: "Failed", restartAt: 5_000 }), 0, 1_000)).toBe(4_000);
  expect(readyInMs(placeOf({ state: "Failed", restartAt: 5_000 }, { startMs: 20_000 }), 0, 1_000)).toBe(24_000);
  expect(readyInMs(placeOf({ state: "Failed", restartAt: 5_000 }, { startMs: 20_000 }), 0, 9_000)).toBe(20_000);
});

test("what loads is back by its progress, else by its last start", () => {
  expect(readyInMs(placeOf({ state: "Loading", progress: 0.25 }, { startsSince: 1_000 }), 0, 4_000)).toBe(9_000);
  expect(readyInMs(placeOf({ state: "Pending" }, { startsSince: 1_000, startMs: 8_000 }), 0, 4_000)).toBe(5_000);
  expect(readyInMs(placeOf({ state: "WarmingUp" }, { startsSince: 1_000, startMs: 2_000 }), 0, 4_000)).toBe(0);
});

test("what is ready and gets nothing is back with its breaker's probe, or when it is no suspect any more", () => {
  expect(readyInMs(placeOf({}), 30_000, 4_000)).toBe(30_000);
  expect(readyInMs({ ...placeOf({}), suspect: "u", suspectUntil: 4_700 }, 0, 4_000)).toBe(700);
});

test("where nothing is known nothing is said", () => {
  for (const place of [placeOf(undefined), placeOf({ state: "Failed" }), placeOf({ state: "Draining" })])
    expect(readyInMs(place, 0, 0)).toBeUndefined();
  expect(readyInMs(placeOf({ state: "Loading" }, { startsSince: 0 }), 0, 1_000)).toBeUndefined();
});

test("a start is measured from the first news of it to Ready", () => {
  const place = placeOf({ state: "Pending" });
  const become = (state: Endpoint["state"], now: number) => {
    if (place.endpoint) place.endpoint = { ...place.endpoint, state: state as "Ready" };
    noteStart(place, now);
  };
  become("Pending", 1_000);
  become("Loading", 2_000);
  become("Ready", 9_000);
  become("Ready", 10_000);
  expect(place).toMatchObject({ startMs: 8_000, startsSince: undefined });
  become("Failed", 11_000);
  become("Pending", 12_000);
  become("Failed", 13_000);
  expect(place).toMatchObject({ startMs: 8_000, startsSince: undefined });
});
