import { expect, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { Expectations, type Seen } from "./expectations.ts";
import type { KubeObject } from "./object.ts";

const pod = (version: string, uid = "u1", more: object = {}): KubeObject => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { namespace: "n", name: "p", uid, resourceVersion: version, ...more },
});

function setup() {
  const clock = new FakeClock();
  clock.advance(1_000);
  const objects = new Map<string, KubeObject>();
  const cache: { -readonly [K in keyof Seen]: Seen[K] } & { relists: number } = {
    version: "5",
    listedAt: 0,
    get: (key: string) => objects.get(key),
    relists: 0,
    relist: () => void cache.relists++,
  };
  return { clock, cache, objects, expectations: new Expectations(clock) };
}

test("who wrote nothing waits for nothing", () => {
  expect(setup().expectations.behind("n/a")).toBe(false);
});

test("a write is awaited until the cache has come to its version", () => {
  const { cache, expectations } = setup();
  expectations.wrote("n/a", cache, pod("10"));
  expectations.wrote("n/a", cache, pod("9"));
  expect(expectations.behind("n/a")).toBe(true);
  expect(expectations.behind("n/b")).toBe(false);
  cache.version = "9";
  expect(expectations.behind("n/a")).toBe(true);
  cache.version = "10";
  expect(expectations.behind("n/a")).toBe(false);
  cache.version = "1";
  expect(expectations.behind("n/a")).toBe(false);
});

test("a write that the watch was faster to show is not awaited", () => {
  const { cache, expectations } = setup();
  cache.version = "11";
  expectations.wrote("n/a", cache, pod("10"));
  expect(expectations.behind("n/a")).toBe(false);
});

test("a deletion is awaited until the object is gone, leaving, or another", () => {
  const cases: ((objects: Map<string, KubeObject>) => void)[] = [
    (objects) => objects.delete("n/p"),
    (objects) => objects.set("n/p", pod("7", "u1", { deletionTimestamp: "2026-01-01T00:00:00Z" })),
    (objects) => objects.set("n/p", pod("8", "u2")),
  ];
  for (const shown of cases) {
    const { cache, objects, expectations } = setup();
    objects.set("n/p", pod("5"));
    expectations.deleted("n/a", cache, pod("5"));
    cache.version = "99";
    expect(expectations.behind("n/a")).toBe(true);
    shown(objects);
    expect(expectations.behind("n/a")).toBe(false);
  }
});

test("every cache that was written to has to follow", () => {
  const { cache, expectations } = setup();
  const other = { ...cache, version: "5" };
  expectations.wrote("n/a", cache, pod("10"));
  expectations.wrote("n/a", other, pod("12"));
  cache.version = "12";
  expect(expectations.behind("n/a")).toBe(true);
  other.version = "12";
  expect(expectations.behind("n/a")).toBe(false);
});

test("a list asked for after the write holds it; one asked for before does not", () => {
  const { clock, cache, expectations } = setup();
  expectations.wrote("n/a", cache, pod("10"));
  cache.listedAt = clock.now();
  expect(expectations.behind("n/a")).toBe(true);
  cache.listedAt = clock.now() + 1;
  expect(expectations.behind("n/a")).toBe(false);
});

test("a cache that stays behind is asked to list anew, every 30 s, and never believed before", () => {
  const { clock, cache, expectations } = setup();
  expectations.wrote("n/a", cache, pod("10"));
  for (let second = 0; second < 65; second++) {
    expect(expectations.behind("n/a")).toBe(true);
    clock.advance(1_000);
  }
  expect(cache.relists).toBe(2);
});

test("a cache that is being listed again knows nothing", () => {
  const { cache, expectations } = setup();
  expectations.wrote("n/a", cache, pod("10"));
  cache.version = undefined;
  expect(expectations.behind("n/a")).toBe(true);
});

test("an owner that is gone is forgotten", () => {
  const { cache, expectations } = setup();
  expectations.wrote("n/a", cache, pod("10"));
  expectations.forget("n/a");
  expect(expectations.behind("n/a")).toBe(false);
});
