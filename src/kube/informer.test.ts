import { expect, onTestFinished, test } from "vitest";
import { EagerClock } from "../../test/support/eager-clock.ts";
import { eventually } from "../../test/support/eventually.ts";
import { FakeKube } from "../../test/support/fake-kube.ts";
import { settle } from "../../test/support/settle.ts";
import { silentLogger } from "../lib/logger.ts";
import { makeMetrics } from "../lib/metrics.ts";
import { Client } from "./client.ts";
import { Connection } from "./connection.ts";
import { Informer, type InformerOptions } from "./informer.ts";
import { makeKubeMetrics } from "./metrics.ts";
import { type KubeObject, keyOf } from "./object.ts";
import { recoveryMs } from "./reflector.ts";
import { RESOURCES } from "./resource.ts";

const PODS = "v1/pods";
const pod = (name: string, labels: Record<string, string> = {}): KubeObject => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { namespace: "ns", name, labels },
});
const isWatch = (call: { watch: boolean }) => call.watch;
const isList = (call: { watch: boolean }) => !call.watch;

/** Waits up to 31 s pass at once and are noted; the doubt after 40 s of silence comes when the test says so. */
async function setup(options: Partial<InformerOptions<KubeObject, "pool">> = {}) {
  const kube = await FakeKube.start();
  const clock = new EagerClock(31_000);
  const metrics = makeMetrics();
  const kubeMetrics = makeKubeMetrics(metrics);
  // Of its own: what it waits is no wait of a reflector.
  const connection = new Connection({ credentials: kube.credentials, clock: new EagerClock(), userAgent: "test" });
  const client = new Client({
    connection,
    clock: { ...clock, now: clock.now, wall: clock.wall, after: calls },
    metrics: kubeMetrics,
  });
  const informer = new Informer<KubeObject, "pool">({
    client,
    resource: RESOURCES.pods,
    clock,
    random: () => 0.5,
    log: silentLogger,
    metrics: kubeMetrics,
    indexes: { pool: ({ metadata }) => (metadata.labels?.pool ? [metadata.labels.pool] : []) },
    ...options,
  });
  onTestFinished(async () => {
    await informer.close();
    await connection.close();
    await kube.close();
  });
  const keys: string[] = [];
  informer.onChange(
    (object) => [keyOf(object)],
    (key) => keys.push(key),
  );
  const start = async () => {
    informer.start();
    await informer.whenSynced(new AbortController().signal);
    await watching(1);
    keys.length = 0;
  };
  /** The nth watch was opened and is still open. */
  const watching = (nth: number) =>
    eventually("a watch", () => kube.seen.filter(isWatch).length >= nth && [...kube.watching].at(-1));
  const shown = async (...names: string[]) => {
    await eventually(`the cache shows ${names}`, () => {
      const there = informer.list().map((object) => object.metadata.name);
      return there.sort().join() === names.sort().join();
    });
  };
  return { kube, clock, metrics, client, informer, keys, start, watching, shown };
}

/** The limits of single calls play no part here. */
const calls = (): (() => void) => () => {};

test("lists page by page, then follows; handlers get keys", async () => {
  const { kube, informer, keys, start, shown } = await setup();
  for (let i = 0; i < 1_234; i++) kube.store.create(PODS, pod(`p${i}`));
  await start();
  expect(informer.size).toBe(1_234);
  expect(informer.list().every(({ kind, apiVersion }) => kind === "Pod" && apiVersion === "v1")).toBe(true);
  const pages = kube.seen.filter(isList);
  expect(pages.map(({ query }) => query.get("limit"))).toEqual(["500", "500", "500"]);
  expect(pages.map(({ query }) => query.has("resourceVersion"))).toEqual([false, false, false]);
  for (let i = 1; i < 1_234; i++) kube.store.delete(PODS, `ns/p${i}`);
  await shown("p0");
  expect(keys.length).toBe(1_233);
  kube.store.merge(PODS, "ns/p0", { metadata: { labels: { a: "b" } } });
  await eventually("the change", () => informer.get("ns/p0")?.metadata.labels?.a === "b");
  expect(keys.at(-1)).toBe("ns/p0");
});

test("a watch asks for bookmarks, ends on the server's side within 5 to 10 minutes, and its selectors are the list's", async () => {
  const { kube, start } = await setup({ namespace: "ns", labelSelector: "pool=a", fieldSelector: "metadata.name=p" });
  kube.store.create(PODS, pod("p", { pool: "a" }));
  kube.store.create(PODS, pod("q", { pool: "a" }));
  await start();
  const [list, watch] = kube.seen;
  expect(list?.path).toBe("/api/v1/namespaces/ns/pods");
  expect(Object.fromEntries(watch?.query ?? [])).toEqual({
    watch: "true",
    allowWatchBookmarks: "true",
    labelSelector: "pool=a",
    fieldSelector: "metadata.name=p",
    resourceVersion: String(kube.store.version),
    timeoutSeconds: "450",
  });
});

test("objects are found by index, also after they moved, and managed fields are not kept", async () => {
  const { kube, informer, keys, start, shown } = await setup({ labelSelector: "tier=x" });
  kube.store.create(PODS, {
    ...pod("p", { pool: "a", tier: "x" }),
    metadata: { ...pod("p", { pool: "a", tier: "x" }).metadata, managedFields: [{ manager: "m" }] },
  });
  await start();
  expect(informer.by("pool", "a").map(keyOf)).toEqual(["ns/p"]);
  expect(informer.get("ns/p")?.metadata).not.toHaveProperty("managedFields");
  kube.store.merge(PODS, "ns/p", { metadata: { labels: { pool: "b" } } });
  await eventually("the move", () => informer.by("pool", "b").length === 1);
  expect(informer.by("pool", "a")).toEqual([]);
  kube.store.merge(PODS, "ns/p", { metadata: { labels: { tier: "y" } } });
  await shown();
  expect(keys).toEqual(["ns/p", "ns/p"]);
});

test("an ended watch is taken up where it was, without a list", async () => {
  const { kube, clock, start, watching, shown } = await setup();
  // The watch counts as an ordinary one once it has lasted a second.
  let now = 0;
  clock.now = () => now;
  await start();
  kube.store.create(PODS, pod("a"));
  await shown("a");
  kube.bookmark();
  now += 400_000;
  (await watching(1)).end();
  await watching(2);
  kube.store.create(PODS, pod("b"));
  await shown("a", "b");
  expect(kube.seen.filter(isList).length).toBe(1);
  expect(clock.waits).toEqual([]);
});

test("bookmarks keep a quiet watch from growing too old", async () => {
  const { kube, informer, start, watching, shown } = await setup({ labelSelector: "pool=a" });
  await start();
  for (let i = 0; i < 5; i++) kube.store.create(PODS, pod(`other${i}`));
  kube.bookmark();
  await eventually("the bookmark", () => informer.version === String(kube.store.version));
  kube.compact();
  (await watching(1)).end();
  await watching(2);
  kube.store.create(PODS, pod("a", { pool: "a" }));
  await shown("a");
  expect(kube.seen.filter(isList).length).toBe(1);
});

test("410 on reconnect: lists anew at once and notices what was deleted meanwhile", async () => {
  const { kube, clock, informer, keys, start, watching, shown } = await setup();
  let now = 0;
  clock.now = () => now;
  for (const name of ["a", "b", "c"]) kube.store.create(PODS, pod(name));
  await start();
  kube.fail({ when: isWatch, times: 1, what: { status: 410, reason: "Expired" } });
  now += 400_000;
  (await watching(1)).reset();
  kube.store.delete(PODS, "ns/b");
  kube.store.create(PODS, pod("d"));
  kube.compact();
  await shown("a", "c", "d");
  expect(informer.size).toBe(3);
  expect([...new Set(keys)].sort()).toEqual(["ns/b", "ns/d"]);
  expect(kube.seen.filter(isList).length).toBe(2);
});

test("410 as an event in the stream is a 410", async () => {
  const { kube, keys, start, watching, shown } = await setup();
  for (const name of ["a", "b"]) kube.store.create(PODS, pod(name));
  await start();
  const stream = await watching(1);
  stream.stall();
  kube.store.delete(PODS, "ns/a");
  const status = { kind: "Status", status: "Failure", code: 410, reason: "Expired", message: "too old" };
  stream.bytes(`${JSON.stringify({ type: "ERROR", object: status })}\n`);
  await shown("b");
  expect(keys).toEqual(["ns/a"]);
});

test("an expired page starts the list anew", async () => {
  const { kube, informer } = await setup();
  for (let i = 0; i < 600; i++) kube.store.create(PODS, pod(`p${i}`));
  kube.fail({ when: ({ query }) => query.has("continue"), times: 1, what: { status: 410, reason: "Expired" } });
  informer.start();
  await informer.whenSynced(new AbortController().signal);
  expect(informer.size).toBe(600);
  expect(kube.seen.filter(isList).length).toBe(4);
});

test("deleted and made again while nobody watched: handlers hear of both, the cache has the new one", async () => {
  const { kube, informer, keys, start, watching } = await setup();
  const first = kube.store.create(PODS, pod("a", { pool: "old" }));
  await start();
  const owners: string[] = [];
  informer.onChange(
    ({ metadata }) => [`${metadata.labels?.pool}`],
    (key) => owners.push(key),
  );
  owners.length = 0;
  const stream = await watching(1);
  stream.stall();
  kube.store.delete(PODS, "ns/a");
  const second = kube.store.create(PODS, pod("a", { pool: "new" }));
  kube.compact();
  stream.reset();
  await eventually("the new one", () => informer.get("ns/a")?.metadata.uid === second.metadata.uid);
  expect(first.metadata.uid).not.toBe(second.metadata.uid);
  expect(keys).toEqual(["ns/a", "ns/a"]);
  expect(owners).toEqual(["old", "new"]);
  expect(informer.by("pool", "old")).toEqual([]);
});

test("an object that did not change concerns nobody when it is listed again", async () => {
  const { kube, informer, keys, start } = await setup();
  for (const name of ["a", "b", "c"]) kube.store.create(PODS, pod(name));
  await start();
  const before = informer.listedAt ?? 0;
  kube.store.merge(PODS, "ns/b", { metadata: { labels: { x: "y" } } });
  await eventually("the change", () => keys.length === 1);
  informer.relist();
  await eventually("a new list", () => (informer.listedAt ?? 0) > before);
  expect(keys).toEqual(["ns/b"]);
  expect(kube.seen.filter(isList).length).toBe(2);
});

const faults = [
  { name: "connection reset", when: isWatch, what: "reset" as const },
  { name: "empty 200", when: isWatch, what: { raw: "" } },
  { name: "500 on the watch", when: isWatch, what: { status: 500 } },
  { name: "429 on the watch", when: isWatch, what: { status: 429 } },
  { name: "403 on the watch", when: isWatch, what: { status: 403, reason: "Forbidden" } },
  { name: "reset on the list", when: isList, what: "reset" as const },
  { name: "500 on the list", when: isList, what: { status: 500 } },
  { name: "empty 200 on the list", when: isList, what: { raw: "" } },
  { name: "200 without a list on the list", when: isList, what: { raw: '{"items":null}' } },
];
test.each(faults)("$name, twenty times: survives, keeps what it has, and comes back", async ({ when, what }) => {
  const { kube, clock, informer, metrics, start, watching, shown } = await setup();
  kube.store.create(PODS, pod("a"));
  await start();
  kube.fail({ when, times: 20, what });
  if (when === isList) kube.compact();
  if (when === isList) kube.store.create(PODS, pod("b"));
  if (when === isList) kube.compact();
  (await watching(1)).reset();
  await eventually("the fault is over", () => {
    expect(informer.list().length).toBeGreaterThan(0);
    return kube.faults.length === 0;
  });
  kube.store.create(PODS, pod("c"));
  await shown("a", ...(when === isList ? ["b"] : []), "c");
  // Every wait is between 1 and 30 s, and they grow.
  expect(Math.min(...clock.waits)).toBeGreaterThanOrEqual(1_000);
  expect(Math.max(...clock.waits)).toBeLessThanOrEqual(30_000);
  expect(Math.max(...clock.waits)).toBeGreaterThan(10_000);
  const failures = [...(await metrics.expose()).matchAll(/reflector_failures_total\{[^}]*\} (\d+)/g)];
  expect(failures.reduce((sum, [, n]) => sum + Number(n), 0)).toBeGreaterThanOrEqual(20);
});

test("a server that is away is asked again until it is there, also for the first list", async () => {
  const { kube, informer } = await setup();
  kube.fail({ times: 50, what: "reset" });
  kube.store.create(PODS, pod("a"));
  informer.start();
  expect(informer.synced).toBe(false);
  await informer.whenSynced(new AbortController().signal);
  expect(kube.faults).toEqual([]);
  expect(informer.size).toBe(1);
});

test("a malformed line is counted, and what it hid is asked for again", async () => {
  const { kube, metrics, start, watching, shown } = await setup();
  await start();
  for (const line of [
    '{"type":"ADDED","obj',
    "null",
    "[]",
    '{"type":"ADDED","object":{}}',
    '{"type":"MOVED","object":{"metadata":{"resourceVersion":"1"}}}',
  ]) {
    const stream = await eventually("an open watch", () => [...kube.watching].at(-1));
    // What happens now reaches this watch as the broken line only.
    stream.stall();
    kube.store.create(PODS, pod(`p${kube.store.version}`));
    stream.bytes(`${line}\n`);
    await shown(...kube.store.list(PODS).map(({ metadata }) => metadata.name));
  }
  await watching(6);
  expect(kube.seen.filter(isList).length).toBe(1);
  expect(await metrics.expose()).toContain('reflector_failures_total{resource="pods",cause="malformed"} 5');
});

test("a line that stays malformed is got around by a list", async () => {
  const { kube, start, shown } = await setup();
  await start();
  kube.fail({ when: isWatch, times: 1, what: { raw: "garbage\n" } });
  for (const stream of kube.watching) stream.bytes("garbage\n");
  await eventually("a second list", () => kube.seen.filter(isList).length === 2);
  kube.store.create(PODS, pod("a"));
  await shown("a");
});

test("a character that arrives in two parts is one character", async () => {
  const { kube, informer, start, watching } = await setup();
  const object = kube.store.create(PODS, pod("a"));
  await start();
  const metadata = { ...object.metadata, resourceVersion: "900", annotations: { note: "größer – 大" } };
  const line = Buffer.from(`${JSON.stringify({ type: "MODIFIED", object: { ...object, metadata } })}\n`);
  const stream = await watching(1);
  for (let i = 0; i < line.length; i += 7) {
    stream.bytes(line.subarray(i, i + 7));
    await new Promise((resolve) => setImmediate(resolve));
  }
  await eventually("the change", () => informer.get("ns/a")?.metadata.annotations?.note === "größer – 大");
});

test("a connection that stays open and silent is found out, and loses nothing", async () => {
  const { kube, clock, metrics, start, watching, shown } = await setup();
  kube.store.create(PODS, pod("a"));
  await start();
  (await watching(1)).stall();
  kube.store.delete(PODS, "ns/a");
  kube.store.create(PODS, pod("b"));
  // 40 s of silence.
  clock.expire();
  await shown("b");
  expect(kube.seen.filter(isList).length).toBe(1);
  await eventually("only the second watch is left", () => kube.watching.size === 1);
  expect(await metrics.expose()).toContain('reflector_watches_total{resource="pods"} 2');
});

test("a server that is silent on every watch is asked again and again, without a gap", async () => {
  const { kube, clock, start, watching, shown } = await setup();
  await start();
  for (let nth = 1; nth <= 3; nth++) {
    (await watching(nth)).stall();
    clock.expire();
  }
  await watching(4);
  kube.store.create(PODS, pod("a"));
  await shown("a");
  expect(kube.seen.filter(isList).length).toBe(1);
  expect(clock.waits).toEqual([]);
});

test("a version that is too old for a second watch is got around by a list", async () => {
  const { kube, clock, start, watching, shown } = await setup();
  kube.store.create(PODS, pod("a"));
  await start();
  (await watching(1)).stall();
  kube.store.delete(PODS, "ns/a");
  kube.compact();
  clock.expire();
  await shown();
  expect(kube.seen.filter(isList).length).toBe(2);
});

test("a handler that throws loses its own notice; the cache and the others go on", async () => {
  const { kube, informer, keys, start, shown } = await setup();
  await start();
  informer.onChange(
    () => {
      throw new Error("bad handler");
    },
    () => {},
  );
  kube.store.create(PODS, pod("a"));
  kube.store.create(PODS, pod("b"));
  await shown("a", "b");
  expect(keys).toEqual(["ns/a", "ns/b"]);
  expect(informer.version).toBe(String(kube.store.version));
});

test("a handler that comes late hears of what is there; one that left hears nothing", async () => {
  const { kube, informer, start, shown } = await setup();
  kube.store.create(PODS, pod("a"));
  await start();
  const late: string[] = [];
  const leave = informer.onChange(
    (object) => [keyOf(object)],
    (key) => late.push(key),
  );
  expect(late).toEqual(["ns/a"]);
  leave();
  kube.store.create(PODS, pod("b"));
  await shown("a", "b");
  expect(late).toEqual(["ns/a"]);
});

test("close ends everything, whatever it is doing, and can be called twice", async () => {
  for (const state of ["watching", "listing", "waiting", "not started"]) {
    const { kube, clock, informer, start } = await setup();
    if (state === "watching") await start();
    if (state === "listing") kube.fail({ when: isList, what: "hang" });
    if (state === "waiting") kube.fail({ what: { status: 500 } });
    if (state !== "not started") informer.start();
    await eventually("a call", () => state === "not started" || kube.seen.length > 0);
    await Promise.all([informer.close(), informer.close()]);
    await eventually("no watch", () => kube.watching.size === 0);
    const waits = clock.waits.length;
    await settle();
    expect([clock.guards, clock.waits.length]).toEqual([0, waits]);
    const waiting = informer.whenSynced(AbortSignal.abort(new Error("gave up")));
    await expect(waiting).rejects.toThrow("gave up");
  }
});

test("recovery waits 1 to 30 s, spread wider each time", () => {
  for (let failures = 1; failures < 100; failures++) {
    expect(recoveryMs(failures, () => 0)).toBe(1_000);
    expect(recoveryMs(failures, () => 1)).toBe(Math.min(30_000, 1_000 * 2 ** failures));
  }
});
