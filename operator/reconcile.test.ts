import { expect, onTestFinished, test } from "vitest";
import type { LLMPool } from "../src/api/llmpool.ts";
import { API_VERSION, KIND } from "../src/api/names.ts";
import { Client } from "../src/kube/client.ts";
import { Connection } from "../src/kube/connection.ts";
import { Expectations } from "../src/kube/expectations.ts";
import { type KubeObject, keyOf } from "../src/kube/object.ts";
import { silentLogger } from "../src/lib/logger.ts";
import { EagerClock } from "../test/support/eager-clock.ts";
import { eventually } from "../test/support/eventually.ts";
import { FakeKube } from "../test/support/fake-kube.ts";
import { pool as makePool } from "../test/support/pool.ts";
import type { Told } from "./ask.ts";
import { Caches } from "./caches.ts";
import { LLMPOOLS } from "./kinds.ts";
import { makeReconciler } from "./reconcile.ts";
import { defaultImages } from "./render/settings.ts";
import type { Subject } from "./words.ts";

const KEY = "team/apex";
const SET = "apps/v1/statefulsets";
const PODS = "v1/pods";
const POOLS = `${API_VERSION}/${LLMPOOLS.plural}`;

/** Reconciles of one pool against a fake API server, whose controllers and kubelets the test plays. */
async function setup() {
  const kube = await FakeKube.start();
  const clock = new EagerClock(0);
  const connection = new Connection({ credentials: kube.credentials, clock, userAgent: "test" });
  const client = new Client({ connection, clock, resources: [LLMPOOLS] });
  const caches = new Caches({ client, clock, random: () => 0.5, log: silentLogger });
  onTestFinished(async () => {
    await caches.close();
    await connection.close();
    await kube.close();
  });
  const signal = new AbortController().signal;
  caches.start();
  await Promise.all(caches.all.map((cache) => cache.whenSynced(signal)));
  const expectations = new Expectations(clock);
  /** By uid: what the supervisor of a pod says. */
  const said = new Map<string, Map<string, Told>>();
  const remembered: (ReadonlyMap<string, Told> | undefined)[] = [];
  const askedAbout: Subject[] = [];
  const reconcile = makeReconciler({
    client,
    caches,
    expectations,
    clock,
    settings: { images: defaultImages("1"), operatorNamespace: "o" },
    recorder: { record: () => {} },
    prober: {
      follow: (_, __, known) => remembered.push(known),
      told: () => new Map([...said.values()].flatMap((rows) => [...rows])),
      said: (_, uid) => said.get(uid) ?? new Map(),
      waitMs: () => 0,
    },
    eventWords: {
      about: async (_, __, subjects) => {
        askedAbout.push(...subjects);
        return { words: new Map(), againMs: undefined };
      },
      forget: () => {},
    },
    cards: { nodes: () => [], slices: () => [] },
    makeToken: () => "token",
  });
  const inCache = ({ kind, metadata }: KubeObject): KubeObject | undefined =>
    kind === KIND ? caches.pools.get(KEY) : caches.find(kind, "team", metadata.name);
  /** Once the caches have what the test has stored. */
  const look = async (stored: KubeObject) => {
    await eventually(
      "the caches have come to it",
      () => inCache(stored)?.metadata.resourceVersion === stored.metadata.resourceVersion && !expectations.behind(KEY),
    );
    await reconcile(KEY, signal);
  };
  return { store: kube.store, said, look, remembered, askedAbout };
}

const packed = (memory: string): KubeObject & LLMPool => {
  const gpu = { mode: "Packed", instancesPerPod: 2 };
  const pool = makePool({ backend: "stub", instances: 6, drainSeconds: 0, gpu, resources: { limits: { memory } } });
  return { ...pool, metadata: { ...pool.metadata, name: "apex", namespace: "team" } };
};

/** A pod as the StatefulSet's controller makes it. */
function podOf(set: KubeObject, ordinal: number, status: object): KubeObject {
  const owner = {
    apiVersion: "apps/v1",
    kind: "StatefulSet",
    name: "apex",
    uid: set.metadata.uid ?? "",
    controller: true,
  };
  const metadata = {
    name: `apex-${ordinal}`,
    namespace: "team",
    labels: { "app.kubernetes.io/managed-by": "llmpool-operator", "llmpool.dev/pool": "apex" },
    annotations: { "llmpool.dev/revision": set.metadata.annotations?.["llmpool.dev/revision"] ?? "" },
    ownerReferences: [owner],
  };
  return { apiVersion: "v1", kind: "Pod", metadata, status } as KubeObject;
}

test("an edit of a Packed pool replaces the next pod when the one before has said that its instances are Ready, each with its entry", async () => {
  const { store, said, look } = await setup();
  /** As its controller would: it has seen the set. */
  const seenSet = () => store.merge(SET, KEY, { status: { observedGeneration: 1_000 } });
  const ready = { podIP: "10.0.0.1", conditions: [{ type: "Ready", status: "True" }] };
  const makePod = (ordinal: number) => store.create(PODS, podOf(store.get(SET, KEY), ordinal, ready));
  const say = ({ metadata }: KubeObject, state: Told["state"]) => {
    const ordinal = Number(metadata.name.at(-1));
    said.set(metadata.uid ?? "", new Map([0, 1].map((slot) => [`${2 * ordinal + slot}`, { state }])));
  };
  const pods = () => store.list(PODS).map((pod) => pod.metadata.name);
  const entries = () => (store.get("v1/configmaps", KEY) as unknown as { data: Record<string, string> }).data;

  await look(store.create(POOLS, packed("1Gi")));
  for (const ordinal of [0, 1, 2]) say(makePod(ordinal), "Ready");
  await look(seenSet());
  const before = entries();

  await look(store.merge(POOLS, KEY, { spec: packed("2Gi").spec }));
  expect([pods(), entries()]).toEqual([["apex-0", "apex-1", "apex-2"], before]);
  await look(store.merge(SET, KEY, { status: { observedGeneration: 1_001 } }));
  expect(pods()).toEqual(["apex-0", "apex-1"]);
  const renewed = entries();
  expect(["0.json", "1.json", "2.json"].filter((name) => renewed[name] !== before[name])).toEqual(["2.json"]);

  const made = makePod(2);
  say(made, "Loading");
  await look(made);
  expect(pods()).toEqual(["apex-0", "apex-1", "apex-2"]);
  say(made, "Ready");
  await look(store.get(PODS, keyOf(made)));
  expect(pods()).toEqual(["apex-0", "apex-2"]);
});

test.each([
  { generation: 2, observed: 2, revision: undefined },
  { generation: 2, observed: 1, revision: "" },
])(
  "what a status of generation $observed says of ready instances counts for generation $generation as of revision $revision",
  async (given) => {
    const { store, look, remembered } = await setup();
    const pool = packed("1Gi");
    const rows = [{ id: "0", variant: "default", state: "Ready", restarts: 0 }];
    const status = { observedGeneration: given.observed, instanceStatuses: rows };
    const metadata = { ...pool.metadata, generation: given.generation };
    await look(store.create(POOLS, { ...pool, metadata, status } as KubeObject));
    expect(remembered[0]?.get("0")).toMatchObject({ state: "Ready" });
    expect(remembered[0]?.get("0")?.revision).toBe(given.revision);
  },
);

test("what Events say is asked of the very pod that does not come along", async () => {
  const { store, look, askedAbout } = await setup();
  await look(store.create(POOLS, packed("1Gi")));
  const pod = store.create(PODS, podOf(store.get(SET, KEY), 0, { phase: "Pending" }));
  await look(pod);
  expect(askedAbout).toContainEqual({ kind: "Pod", name: "apex-0", uid: pod.metadata.uid, placed: false });
});
