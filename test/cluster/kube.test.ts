import { expect, onTestFinished } from "vitest";
import { Client } from "../../src/kube/client.ts";
import { Connection } from "../../src/kube/connection.ts";
import type { Credentials } from "../../src/kube/credentials.ts";
import { isConflict } from "../../src/kube/errors.ts";
import { EventRecorder } from "../../src/kube/events.ts";
import { Informer } from "../../src/kube/informer.ts";
import { fromKubeconfig } from "../../src/kube/kubeconfig.ts";
import { acquireLease, type Lease } from "../../src/kube/lease.ts";
import { includesVersion, type KubeObject } from "../../src/kube/object.ts";
import { RESOURCES } from "../../src/kube/resource.ts";
import { readWatch, type WatchEvent } from "../../src/kube/watch.ts";
import { type Clock, systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import { type ConfigMap, MiniOperator, miniPool } from "../support/mini-operator.ts";
import { swiftClock } from "../support/swift-clock.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";

const cluster = await clusterForTests();

function connect(credentials: Credentials = fromKubeconfig(cluster.kubeconfig), clock: Clock = systemClock): Client {
  const connection = new Connection({ credentials, clock, userAgent: "llmpool-machinery-test" });
  onTestFinished(() => connection.close());
  return new Client({ connection, clock });
}

const config = (namespace: string, name: string, data: Record<string, string>, more: object = {}): ConfigMap => ({
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { namespace, name, ...more },
  data,
});

/** The same API server behind a proxy of the test's. */
async function proxied(): Promise<{ proxy: TcpProxy; credentials: Credentials }> {
  const direct = fromKubeconfig(cluster.kubeconfig);
  const { hostname, port } = new URL(direct.server);
  const proxy = await TcpProxy.start(Number(port), hostname);
  onTestFinished(() => proxy[Symbol.asyncDispose]());
  const { namespace } = direct;
  return {
    proxy,
    credentials: { server: `https://127.0.0.1:${proxy.port}`, namespace, read: () => direct.read() },
  };
}

cluster.test(
  "server-side apply: what is no longer applied goes, what others own is named and can be taken",
  async () => {
    const client = connect();
    const namespace = await cluster.namespace();
    const apply = (manager: string, data: Record<string, string>, force = false) =>
      client.apply(config(namespace, "a", data), { fieldManager: manager, force });
    await apply("ours", { x: "1", y: "1" });
    await apply("theirs", { z: "1" });
    const changed = await apply("ours", { x: "2" });
    expect(changed.data).toEqual({ x: "2", z: "1" });
    const again = await apply("ours", { x: "2" });
    expect(again.metadata.resourceVersion).toBe(changed.metadata.resourceVersion);
    const refused = await apply("theirs", { x: "3", z: "1" }).catch((error: unknown) => error);
    expect(refused).toSatisfy(isConflict);
    expect(String(refused)).toContain('conflict with "ours"');
    expect((await apply("theirs", { x: "3", z: "1" }, true)).data).toEqual({ x: "3", z: "1" });
    const stale = { ...config(namespace, "a", { x: "9" }, { resourceVersion: again.metadata.resourceVersion }) };
    await expect(client.apply(stale, { fieldManager: "ours", force: true })).rejects.toSatisfy(isConflict);
    const dry = await client.apply(config(namespace, "b", {}), { fieldManager: "ours", dryRun: true });
    expect(dry.metadata.uid).toBeDefined();
    expect(await client.find(RESOURCES.configMaps, { namespace, name: "b" })).toBeUndefined();
  },
);

cluster.test("deletion holds its preconditions; errors carry the server's reason", async () => {
  const client = connect();
  const namespace = await cluster.namespace();
  const made = await client.create(config(namespace, "a", {}));
  await expect(client.create(config(namespace, "a", {}))).rejects.toMatchObject({
    reason: "AlreadyExists",
    status: 409,
  });
  const place = { namespace, name: "a" };
  const wrong = client.delete(RESOURCES.configMaps, place, { uid: "00000000-0000-0000-0000-000000000000" });
  await expect(wrong).rejects.toMatchObject({ status: 409, reason: "Conflict" });
  await client.update({ ...made, data: { x: "1" } });
  const { uid, resourceVersion } = made.metadata;
  await expect(client.delete(RESOURCES.configMaps, place, { uid, resourceVersion })).rejects.toSatisfy(isConflict);
  expect(await client.delete(RESOURCES.configMaps, place, { uid })).toBe(true);
  expect(await client.delete(RESOURCES.configMaps, place, { uid })).toBe(false);
  const invalid = client.create(config(namespace, "Not A Name", {}));
  await expect(invalid).rejects.toMatchObject({
    status: 422,
    reason: "Invalid",
    details: { causes: [expect.objectContaining({ field: "metadata.name" })] },
  });
});

cluster.test("lists come in pages and as tables", async () => {
  const client = connect();
  const namespace = await cluster.namespace();
  for (const name of ["a", "b", "c"]) await client.create(config(namespace, name, {}, { labels: { of: "test" } }));
  const query = { namespace, labelSelector: "of=test", limit: 2 };
  const first = await client.list<ConfigMap>(RESOURCES.configMaps, query);
  const rest = await client.list<ConfigMap>(RESOURCES.configMaps, {
    ...query,
    continue: first.metadata.continue,
  });
  expect([first, rest].map(({ items }) => items.map(({ metadata }) => metadata.name))).toEqual([["a", "b"], ["c"]]);
  expect(first.items[0]).toMatchObject({ apiVersion: "v1", kind: "ConfigMap" });
  const table = await client.table(RESOURCES.configMaps, { namespace, name: "a" });
  expect(table.columnDefinitions.map(({ name }) => name)).toEqual(["Name", "Data", "Age"]);
  expect(table.rows[0]?.cells.slice(0, 2)).toEqual(["a", 0]);
  expect(table.rows[0]?.object.metadata.name).toBe("a");
});

cluster.ownTest("300 calls take at most two connections", async () => {
  const { proxy, credentials } = await proxied();
  const client = connect(credentials);
  for (let i = 0; i < 300; i++) await client.get(RESOURCES.namespaces, { name: "default" });
  expect(proxy.connections).toBeLessThanOrEqual(2);
});

cluster.test("a watch begins without an event, brings bookmarks, and ends when it was asked to", async () => {
  const client = connect();
  const namespace = await cluster.namespace();
  const list = await client.list(RESOURCES.configMaps, { namespace, labelSelector: "of=nothing" });
  const events: WatchEvent<KubeObject>[] = [];
  const target = {
    path: `/api/v1/namespaces/${namespace}/configmaps`,
    query: {
      labelSelector: "of=nothing",
      resourceVersion: list.metadata.resourceVersion,
      // A bookmark comes two seconds before the end, if anything of the kind has changed.
      timeoutSeconds: 6,
    },
  };
  const listener = { onActivity() {}, onEvent: (event: WatchEvent<KubeObject>) => events.push(event) };
  const watch = readWatch(client, target, listener, new AbortController().signal);
  const other = await client.create(config(namespace, "other", {}));
  await watch;
  const last = events.at(-1);
  if (last?.type !== "BOOKMARK") throw new Error(`a ${last?.type}`);
  expect(includesVersion(last.version, other.metadata.resourceVersion ?? "")).toBe(true);
});

function follow(client: Client, namespace: string, clock: Clock = systemClock): Informer<ConfigMap> {
  const informer = new Informer<ConfigMap>({
    client,
    resource: RESOURCES.configMaps,
    namespace,
    labelSelector: "of=test",
    clock,
    random: Math.random,
    log: silentLogger,
  });
  onTestFinished(() => informer.close());
  informer.start();
  return informer;
}

cluster.ownTest("an informer follows the API server through resets, stalls and absence", async () => {
  const { proxy, credentials } = await proxied();
  const clock = swiftClock(20);
  const namespace = await cluster.namespace();
  const client = connect();
  const informer = follow(connect(credentials, clock), namespace, clock);
  const labels = { labels: { of: "test" } };
  const shows = (...names: string[]) =>
    eventually(`the cache shows ${names}`, () => {
      const there = informer.list().map(({ metadata }) => metadata.name);
      return there.sort().join() === names.join();
    });
  await client.create(config(namespace, "a", {}, labels));
  await shows("a");
  const kept = informer.get(`${namespace}/a`);
  expect(kept).toMatchObject({ kind: "ConfigMap", apiVersion: "v1" });
  expect(kept?.metadata).not.toHaveProperty("managedFields");
  proxy.cut();
  await client.create(config(namespace, "b", {}, labels));
  await shows("a", "b");
  proxy.stall();
  await client.delete(RESOURCES.configMaps, { namespace, name: "a" });
  await client.create(config(namespace, "c", {}, labels));
  await shows("b", "c");
  const first = informer.get(`${namespace}/b`)?.metadata.uid;
  proxy.partition();
  await client.delete(RESOURCES.configMaps, { namespace, name: "b" });
  const second = await client.create(config(namespace, "b", {}, labels));
  proxy.heal();
  await eventually("the new b", () => informer.get(`${namespace}/b`)?.metadata.uid === second.metadata.uid);
  expect(first).not.toBe(second.metadata.uid);
});

cluster.test("the Lease is taken, kept, given up and taken over on a real server, times and all", async () => {
  const client = connect();
  const namespace = await cluster.namespace();
  const options = (identity: string) => ({
    client,
    namespace,
    name: "test",
    identity,
    clock: systemClock,
    random: Math.random,
    log: silentLogger,
    leaseMs: 3_000,
    renewDeadlineMs: 2_000,
    retryMs: 100,
  });
  const abort = new AbortController();
  onTestFinished(() => abort.abort(new Error("test over")));
  const first = await acquireLease(options("first"), abort.signal);
  onTestFinished(() => first.close());
  const waiting = acquireLease(options("second"), abort.signal);
  const lease = () => client.get<Lease>(RESOURCES.leases, { namespace, name: "test" });
  const began = await lease();
  await eventually("a renewal", async () => (await lease()).spec?.renewTime !== began.spec?.renewTime);
  expect((await lease()).spec).toMatchObject({ holderIdentity: "first", leaseDurationSeconds: 3, leaseTransitions: 0 });
  await first.close();
  const second = await waiting;
  onTestFinished(() => second.close());
  expect((await lease()).spec).toMatchObject({ holderIdentity: "second", leaseTransitions: 1 });
  await client.merge(RESOURCES.leases, { namespace, name: "test" }, { spec: { holderIdentity: "thief" } });
  await eventually("the second knows", () => second.signal.aborted);
});

cluster.test("events are stored, and repeated ones become a series", async () => {
  const client = connect();
  const namespace = await cluster.namespace();
  const about = await client.create(config(namespace, "a", {}));
  const recorder = new EventRecorder({
    client,
    controller: "llmpool.dev/test",
    instance: "test-1",
    clock: systemClock,
    log: silentLogger,
  });
  onTestFinished(() => recorder.close());
  const notice = { type: "Warning", reason: "Tested", action: "Test", note: "ä".repeat(1_000) } as const;
  for (let i = 0; i < 3; i++) {
    recorder.record(about, { ...notice, related: about });
    await recorder.flush();
  }
  type Event = KubeObject & { series: { count: number }; reason: string; regarding: { uid: string } };
  const events = (await client.list<Event>(RESOURCES.events, { namespace })).items.filter((e) => e.reason === "Tested");
  expect(events.length).toBe(1);
  expect(events[0]).toMatchObject({ series: { count: 3 }, regarding: { uid: about.metadata.uid } });
  expect(await cluster.kubectl(["get", "events", "--namespace", namespace])).toContain("Tested");
});

cluster.ownTest("a small operator makes each object once, and in an unchanged world writes nothing", async () => {
  const { proxy, credentials } = await proxied();
  const namespace = await cluster.namespace();
  const client = connect();
  const operator = new MiniOperator({ credentials, clock: swiftClock(20), namespace, randomNames: true });
  onTestFinished(() => operator.close());
  const children = async () =>
    (await client.list(RESOURCES.configMaps, { namespace, labelSelector: "role=child" })).items.length;
  const written = await cluster.recordWrites();
  const own = async () => (await written()).filter((write) => write.userAgent === "mini" && write.code < 300);
  operator.start();
  await client.create(miniPool(namespace, "p", 4));
  await eventually("four children", async () => (await children()) === 4);
  await eventually("the cache shows them", () => operator.children.size === 4);
  expect((await own()).map(({ verb }) => verb)).toEqual(["create", "create", "create", "create"]);

  for (const harm of [() => proxy.cut(), () => operator.children.relist(), () => operator.pools.relist()]) {
    harm();
    const marker = await client.create(config(namespace, `marker-${Math.random()}`, {}, { labels: { role: "pool" } }));
    await eventually("the cache is at work again", () => operator.pools.get(`${namespace}/${marker.metadata.name}`));
  }
  expect((await own()).length).toBe(4);
  await client.merge(RESOURCES.configMaps, { namespace, name: "p" }, { data: { replicas: "1" } });
  await eventually("one child", async () => (await children()) === 1);
  expect((await own()).slice(4).map(({ verb }) => verb)).toEqual(["delete", "delete", "delete"]);
});
