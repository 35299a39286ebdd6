import { expect, onTestFinished, test } from "vitest";
import { EagerClock } from "../../test/support/eager-clock.ts";
import { FakeKube } from "../../test/support/fake-kube.ts";
import { makeMetrics } from "../lib/metrics.ts";
import { Client, type Method } from "./client.ts";
import { Connection } from "./connection.ts";
import { ApiError, ConnectionError, isConflict, isNotFound } from "./errors.ts";
import { makeKubeMetrics } from "./metrics.ts";
import type { KubeObject } from "./object.ts";
import { RESOURCES } from "./resource.ts";

type ConfigMap = KubeObject & { data?: Record<string, string> };

const config = (name: string, data: Record<string, string> = {}): ConfigMap => ({
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { namespace: "ns", name },
  data,
});
const place = (name: string) => ({ namespace: "ns", name });

async function setup() {
  const kube = await FakeKube.start();
  // Waits below 20 s pass at once; longer ones, which are the call's own limit, only when told to.
  const clock = new EagerClock(20_000);
  const metrics = makeMetrics();
  const connection = new Connection({ credentials: kube.credentials, clock, userAgent: "test" });
  const client = new Client({ connection, clock, metrics: makeKubeMetrics(metrics) });
  onTestFinished(async () => {
    await connection.close();
    await kube.close();
  });
  return { kube, clock, metrics, client };
}

test("objects are made, read, listed, changed and deleted", async () => {
  const { client } = await setup();
  const made = await client.create(config("a", { x: "1" }));
  expect(made.metadata.uid).toBeDefined();
  expect(await client.get<ConfigMap>(RESOURCES.configMaps, place("a"))).toEqual(made);
  const changed = await client.update({ ...made, data: { x: "2" } });
  await expect(client.update({ ...made, data: { x: "3" } })).rejects.toSatisfy(isConflict);
  const merged = await client.merge<ConfigMap>(RESOURCES.configMaps, place("a"), { data: { y: "1", x: null } });
  expect(merged.data).toEqual({ y: "1" });
  expect(changed.data).toEqual({ x: "2" });
  const list = await client.list<ConfigMap>(RESOURCES.configMaps, { namespace: "ns" });
  expect(list.items).toEqual([merged]);
  expect(list.items[0]).toMatchObject({ apiVersion: "v1", kind: "ConfigMap" });
  expect(await client.delete(RESOURCES.configMaps, place("a"))).toBe(true);
  expect(await client.delete(RESOURCES.configMaps, place("a"))).toBe(false);
  expect(await client.find(RESOURCES.configMaps, place("a"))).toBeUndefined();
});

test("apply says whose fields these are, and stores nothing in a dry run's words", async () => {
  const { kube, client } = await setup();
  await client.apply(config("a"), { fieldManager: "me", force: true, dryRun: true, subresource: "status" });
  const call = kube.seen[0];
  expect(call?.path).toBe("/api/v1/namespaces/ns/configmaps/a/status");
  expect(Object.fromEntries(call?.query ?? [])).toEqual({ fieldManager: "me", force: "true", dryRun: "All" });
  expect(call?.headers["content-type"]).toBe("application/apply-patch+yaml");
});

test("a kind that nobody named is a clear mistake", async () => {
  const { client } = await setup();
  expect(() => client.create({ apiVersion: "x.y/v1", kind: "Z", metadata: { name: "a" } })).toThrow(
    "unknown kind x.y/v1 Z: give it to the client in `resources`",
  );
});

test("a deletion can be tied to one object and one state of it", async () => {
  const { client } = await setup();
  const first = await client.create(config("a"));
  await client.delete(RESOURCES.configMaps, place("a"));
  const second = await client.create(config("a"));
  const stale = client.delete(RESOURCES.configMaps, place("a"), { uid: first.metadata.uid });
  await expect(stale).rejects.toSatisfy(isConflict);
  await client.update({ ...second, data: { new: "1" } });
  const { uid, resourceVersion } = second.metadata;
  const old = client.delete(RESOURCES.configMaps, place("a"), { uid, resourceVersion });
  await expect(old).rejects.toSatisfy(isConflict);
  expect(await client.delete(RESOURCES.configMaps, place("a"), { uid })).toBe(true);
});

test("errors say what was asked and what the server said", async () => {
  const { client } = await setup();
  const error = await client.get(RESOURCES.configMaps, place("a")).catch((error: unknown) => error);
  expect(error).toBeInstanceOf(ApiError);
  expect(isNotFound(error)).toBe(true);
  expect(error).toMatchObject({ status: 404, reason: "NotFound" });
  expect(String(error)).toContain(
    'GET /api/v1/namespaces/ns/configmaps/a: 404 NotFound: v1/configmaps "ns/a" not found',
  );
});

test("a busy server is asked again after the time it named", async () => {
  const { kube, clock, client, metrics } = await setup();
  kube.fail({ times: 2, what: { status: 429, reason: "TooManyRequests", headers: { "retry-after": "3" } } });
  kube.fail({ times: 1, what: { status: 503, headers: { "retry-after": "7" } } });
  await client.create(config("a"));
  expect(clock.waits).toEqual([3_000, 3_000, 7_000]);
  expect(kube.store.list("v1/configmaps").length).toBe(1);
  expect(await metrics.expose()).toContain('rest_client_requests_total{method="POST",code="429"} 2');
});

test("a server that stays busy, wants a long wait or names none is the caller's to wait for", async () => {
  const { kube, clock, client } = await setup();
  kube.fail({ when: (call) => call.path.endsWith("/busy"), what: { status: 429, headers: { "retry-after": "1" } } });
  await expect(client.get(RESOURCES.configMaps, place("busy"))).rejects.toMatchObject({ retryAfterMs: 1_000 });
  expect(clock.waits.length).toBe(9);
  kube.fail({ when: (call) => call.path.endsWith("/long"), what: { status: 429, headers: { "retry-after": "60" } } });
  await expect(client.get(RESOURCES.configMaps, place("long"))).rejects.toMatchObject({ retryAfterMs: 60_000 });
  kube.fail({ when: (call) => call.path.endsWith("/none"), what: { status: 503 } });
  await expect(client.get(RESOURCES.configMaps, place("none"))).rejects.toMatchObject({ retryAfterMs: undefined });
  expect(clock.waits.length).toBe(9);
});

test("waiting for a busy server ends with the caller's patience", async () => {
  const { kube, client } = await setup();
  const abort = new AbortController();
  const reason = new Error("enough");
  kube.fail({
    when: () => {
      abort.abort(reason);
      return true;
    },
    what: { status: 429, headers: { "retry-after": "3" } },
  });
  await expect(client.get(RESOURCES.configMaps, place("a"), abort.signal)).rejects.toBe(reason);
});

test("an answer that never comes ends the call after 30 s", async () => {
  const { kube, clock, client } = await setup();
  kube.fail({ what: "hang" });
  const call = client.get(RESOURCES.configMaps, place("a")).catch((error: unknown) => error);
  while (kube.seen.length === 0) await new Promise((resolve) => setImmediate(resolve));
  clock.expire();
  const error = await call;
  expect(error).toBeInstanceOf(ConnectionError);
  expect(String(error)).toContain("no whole answer within 30 s");
});

const broken = [
  { name: "reset", what: "reset" as const },
  { name: "an empty 200", what: { raw: "" } },
  { name: "half an answer", what: { raw: '{"kind":"Conf' } },
  { name: "a proxy's page", what: { raw: "<html>" } },
];
test.each(broken)("$name is a connection that failed, not an object", async ({ what }) => {
  const { kube, client } = await setup();
  kube.fail({ what });
  await expect(client.get(RESOURCES.configMaps, place("a"))).rejects.toBeInstanceOf(ConnectionError);
});

test("a server that is not there is a connection that failed", async () => {
  const { kube, client } = await setup();
  await kube.close();
  await expect(client.get(RESOURCES.configMaps, place("a"))).rejects.toThrow(
    /cannot reach the API server at .*ECONNREFUSED/,
  );
});

test("a write that was applied although its answer was lost does no harm when repeated", async () => {
  const { kube, client } = await setup();
  for (const what of ["reset after" as const, { statusAfter: 504 }]) {
    kube.fail({ times: 1, what });
    const options = { fieldManager: "me", force: true };
    await expect(client.apply(config("a", { x: "1" }), options)).rejects.toThrow();
    const { version } = kube.store;
    await client.apply(config("a", { x: "1" }), options);
    expect(kube.store.version).toBe(version);
    expect(kube.store.list("v1/configmaps").length).toBe(1);
  }
});

test("a guard is asked before each write and each repetition of one, never before a read", async () => {
  const { kube, client } = await setup();
  let asked = 0;
  let allowed = true;
  const guarded = client.guarded(async () => {
    asked++;
    if (!allowed) throw new Error("not the leader");
  });
  await guarded.find(RESOURCES.configMaps, place("a"));
  expect(asked).toBe(0);
  kube.fail({ times: 1, what: { status: 429, headers: { "retry-after": "1" } } });
  const made = await guarded.create(config("a"));
  expect(asked).toBe(2);
  allowed = false;
  const seen = kube.seen.length;
  for (const write of [
    () => guarded.create(config("b")),
    () => guarded.update(made),
    () => guarded.apply(config("a"), { fieldManager: "me" }),
    () => guarded.merge(RESOURCES.configMaps, place("a"), {}),
    () => guarded.delete(RESOURCES.configMaps, place("a")),
  ])
    await expect(write()).rejects.toThrow("not the leader");
  expect(kube.seen.length).toBe(seen);
  await guarded.apply(config("a"), { fieldManager: "me", dryRun: true });
});

test("any call can be made by hand", async () => {
  const { kube, client } = await setup();
  const method: Method = "POST";
  await client.request(method, "/api/v1/namespaces/ns/configmaps", {
    body: config("a"),
    query: { x: undefined, y: 1 },
  });
  expect(kube.seen[0]?.query.toString()).toBe("y=1");
});
