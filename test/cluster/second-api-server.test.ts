import { isDeepStrictEqual } from "node:util";
import { expect, onTestFinished } from "vitest";
import { LLMPOOLS } from "../../operator/kinds.ts";
import type { Client } from "../../src/kube/client.ts";
import type { KubeObject, List } from "../../src/kube/object.ts";
import { pathOf, RESOURCES, type Resource } from "../../src/kube/resource.ts";
import { readWatch } from "../../src/kube/watch.ts";
import { adminClient } from "../support/admin.ts";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import { stub } from "../support/pools.ts";

const cluster = await clusterForTests();
cluster.installCrd();

/** One kind of our own and one of Kubernetes': a server keeps them differently. */
const KINDS: [Resource, (metadata: object) => KubeObject][] = [
  [LLMPOOLS, (metadata) => ({ ...stub(), metadata }) as KubeObject],
  [RESOURCES.configMaps, (metadata) => ({ apiVersion: "v1", kind: "ConfigMap", metadata }) as KubeObject],
];
const PAST = { kept: "1", gone: "1" };
const NOW = { kept: "2", made: "2" };

cluster.ownTest(
  "a real API server that lags answers a list and a get with what is newest or not at all; its watches alone are of the past",
  async () => {
    const server = await cluster.secondApiServer();
    const namespace = await cluster.namespace();
    const kinds = KINDS.map(
      (kind) => new Both(kind, namespace, adminClient(cluster), adminClient(cluster, server.credentials)),
    );
    await Promise.all(
      kinds.map(async (kind) => {
        for (const [name, turn] of Object.entries(PAST)) await kind.put(name, turn);
        await eventually("the second has come so far", async () => isDeepStrictEqual(await kind.cached(), PAST));
      }),
    );
    server.etcd.holdWatches();
    const watches = await Promise.all(kinds.map(isOfThePast));
    for (const { old, young } of watches) expect([...old(), ...young()]).toEqual([]);
    server.etcd.releaseWatches();
    await Promise.all(
      watches.map(async ({ old, young }, at) => {
        const kind = kinds[at] as Both;
        await eventually("the watch tells what happened", () => old().length === 3);
        expect(old()).toEqual(["MODIFIED kept 2", "DELETED gone 1", "ADDED made 2"]);
        expect(await kind.cached()).toEqual(NOW);
        await kind.put("later", "3");
        await eventually("the other watch goes on from there", () => young().length > 0);
        expect(young()).toEqual(["ADDED later 3"]);
      }),
    );
  },
  200_000,
);

/** Changes things at the first server, and says what the second, whose watches are held, makes of it. Returns the events of its watches. */
async function isOfThePast(kind: Both): Promise<{ old: () => string[]; young: () => string[] }> {
  const { resource, namespace, first, second, path } = kind;
  const from = (await kind.list({ resourceVersion: "0" })).metadata.resourceVersion;
  await first.merge(resource, { namespace, name: "kept" }, { metadata: { labels: { turn: "2" } } });
  await first.delete(resource, { namespace, name: "gone" });
  await kind.put("made", "2");
  const newest = (await first.list(resource, { namespace })).metadata.resourceVersion;
  const [old, young] = [from, newest].map((version) => follow(second, path, version)) as [
    () => string[],
    () => string[],
  ];
  // Its caches are of the past: who asks for them gets them.
  expect(await kind.cached()).toEqual(PAST);
  const cached = await second.request<KubeObject>("GET", `${path}/kept`, { query: { resourceVersion: "0" } });
  expect(cached.metadata.labels?.turn).toBe("1");
  // Who asks for no version does not.
  expect(turns(await kind.list())).toEqual(NOW);
  expect(turns(await second.list(resource, { namespace, labelSelector: "turn", limit: 500 }))).toEqual(NOW);
  expect((await second.get<KubeObject>(resource, { namespace, name: "kept" })).metadata.labels?.turn).toBe("2");
  expect(await second.find(resource, { namespace, name: "gone" })).toBeUndefined();
  // A page after the first is of the version of the first, to which its caches have not come.
  const page = await kind.list({ limit: 1 });
  const refused = [{ limit: 1, continue: page.metadata.continue }, { resourceVersion: newest }];
  await Promise.all(refused.map((query) => expect(kind.list(query)).rejects.toThrow("Too large resource version")));
  return { old, young };
}

/** One kind, in one namespace, at both servers. */
class Both {
  readonly resource: Resource;
  readonly namespace: string;
  readonly first: Client;
  readonly second: Client;
  readonly path: string;
  readonly #make: (metadata: object) => KubeObject;

  constructor([resource, make]: (typeof KINDS)[number], namespace: string, first: Client, second: Client) {
    this.resource = resource;
    this.#make = make;
    this.namespace = namespace;
    this.first = first;
    this.second = second;
    this.path = pathOf(resource, { namespace });
  }

  async put(name: string, turn: string): Promise<void> {
    await this.first.create(this.#make({ name, namespace: this.namespace, labels: { turn } }));
  }

  list(query: Record<string, string | number | undefined> = {}): Promise<List<KubeObject>> {
    return this.second.request("GET", this.path, { query: { ...query, labelSelector: "turn" } });
  }

  /** What the second has in its caches. */
  async cached(): Promise<Record<string, unknown>> {
    return turns(await this.list({ resourceVersion: "0" }));
  }
}

const turns = ({ items }: List<KubeObject>) =>
  Object.fromEntries(items.map(({ metadata: { name, labels } }) => [name, labels?.turn]));

/** A watch as the reflector opens it, until the test ends; tells its events but the bookmarks. */
function follow(client: Client, path: string, resourceVersion: string | undefined): () => string[] {
  const events: string[] = [];
  const end = new AbortController();
  onTestFinished(() => end.abort());
  const onEvent: Parameters<typeof readWatch<KubeObject>>[2]["onEvent"] = (event) => {
    if (event.type === "BOOKMARK") return;
    const { name, labels } = event.object.metadata;
    events.push(`${event.type} ${name} ${labels?.turn}`);
  };
  const query = { resourceVersion, labelSelector: "turn" };
  readWatch<KubeObject>(client, { path, query }, { onActivity: () => {}, onEvent }, end.signal).catch(
    (error: unknown) => void (end.signal.aborted || events.push(String(error))),
  );
  return () => events;
}
