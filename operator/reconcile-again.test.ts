import type { V1Deployment } from "@kubernetes/client-node";
import { expect, onTestFinished, test } from "vitest";
import { Client } from "../src/kube/client.ts";
import { Connection } from "../src/kube/connection.ts";
import { Expectations } from "../src/kube/expectations.ts";
import type { KubeObject } from "../src/kube/object.ts";
import { systemClock } from "../src/lib/clock.ts";
import { silentLogger } from "../src/lib/logger.ts";
import { eventually } from "../test/support/eventually.ts";
import { FakeClock } from "../test/support/fake-clock.ts";
import { FakeKube } from "../test/support/fake-kube.ts";
import type { Stored } from "../test/support/fake-kube-store.ts";
import { manifest } from "../test/support/pool.ts";
import { Caches } from "./caches.ts";
import { LLMPOOLS } from "./kinds.ts";
import { makeReconciler } from "./reconcile.ts";
import { defaultImages } from "./render/settings.ts";

const KEY = "team/apex";

/** The reconciler of one pool, with caches of an API server without controllers. */
async function setup(spec: object) {
  const kube = await FakeKube.start();
  const connection = new Connection({ credentials: kube.credentials, clock: systemClock, userAgent: "test" });
  const client = new Client({ connection, clock: systemClock, resources: [LLMPOOLS] });
  const caches = new Caches({ client, clock: systemClock, random: Math.random, log: silentLogger });
  onTestFinished(async () => {
    await caches.close();
    await connection.close();
    await kube.close();
  });
  const pool = manifest(spec) as never as KubeObject;
  const metadata = { ...pool.metadata, namespace: "team", generation: 1 };
  kube.store.create("llmpool.dev/v1alpha1/llmpools", { ...pool, metadata });
  caches.start();
  const signal = new AbortController().signal;
  await Promise.all(caches.all.map((cache) => cache.whenSynced(signal)));
  const clock = new FakeClock();
  const expectations = new Expectations(systemClock);
  /** What others ask for: how soon to look again, in milliseconds. */
  const asked: { proberMs: number; wordsMs: number | undefined } = { proberMs: 0, wordsMs: undefined };
  const operator = (registry: string) =>
    makeReconciler({
      client,
      caches,
      expectations,
      settings: { images: defaultImages("test", registry), operatorNamespace: "default" },
      recorder: { record: () => {} },
      prober: { follow: () => {}, told: () => new Map(), said: () => new Map(), waitMs: () => asked.proberMs },
      eventWords: { about: async () => ({ words: new Map(), againMs: asked.wordsMs }), forget: () => {} },
      cards: { nodes: () => undefined, slices: () => undefined },
      makeToken: () => "token",
      clock,
    });
  const reconciles = new Map<string, ReturnType<typeof operator>>();
  /** Once, when the caches show all that was written before, by the operator with the images of this registry. */
  const look = async (registry = "") => {
    await eventually("the caches have followed", () => !expectations.behind(KEY));
    const reconcile = reconciles.get(registry) ?? operator(registry);
    reconciles.set(registry, reconcile);
    return reconcile(KEY, signal);
  };
  return { kube, caches, asked, look };
}

test("an object that cannot be written keeps back no news of the others, and is tried no sooner without any", async () => {
  const { kube, asked, look } = await setup({ backend: "stub", instances: 1 });
  kube.fail({
    when: ({ method, path }) => method === "PATCH" && path.includes("/roles/"),
    what: { status: 403, reason: "Forbidden" },
  });
  const unfinished = (withinMs: number | undefined) => ({ name: "UnfinishedError", withinMs });
  // What has just been written.
  await expect(look()).rejects.toMatchObject(unfinished(1_000));
  // Nothing new: its own backoff alone.
  await expect(look()).rejects.toMatchObject(unfinished(undefined));
  asked.wordsMs = 3_000;
  await expect(look()).rejects.toMatchObject(unfinished(3_000));
  asked.proberMs = 200;
  await expect(look()).rejects.toMatchObject(unfinished(200));
  kube.faults.length = 0;
  expect(await look()).toEqual({ requeueAfterMs: 200 });
});

test("an operator that is upgraded from a wrong registry makes anew what failed for want of its images", async () => {
  const model = { uri: "hf://org/model/file.gguf", cache: { storage: "1Gi" } };
  const variants = [{ name: "code", instances: 1, backend: "llama-cpp", model }];
  const { kube, caches, look } = await setup({ backend: "stub", instances: 1, variants });
  await look("wrong.example");
  const [job] = kube.store.list("batch/v1/jobs");
  const set = kube.store.get("apps/v1/statefulsets", KEY);
  const images = (collection: string) =>
    kube.store.list(collection).map((object) => {
      const { spec } = object as unknown as V1Deployment;
      return spec?.template.spec?.containers[0]?.image;
    });
  /** As its controller makes it of the first template: no kubelet can have its image. */
  const fail = (name: string, owner: Stored | undefined) =>
    kube.store.create("v1/pods", {
      apiVersion: "v1",
      kind: "Pod",
      metadata: {
        ...{ name, namespace: "team", annotations: owner?.metadata.annotations ?? {} },
        labels: { ...owner?.metadata.labels, "controller-revision-hash": "apex-first" },
        ownerReferences: [
          { apiVersion: "", kind: owner?.kind ?? "", name: "", uid: owner?.metadata.uid ?? "", controller: true },
        ],
      },
      status: {
        containerStatuses: [{ name: "x", restartCount: 0, state: { waiting: { reason: "ImagePullBackOff" } } }],
      },
    } as KubeObject);
  fail("apex-0", set);
  fail("loader", job);
  const status = { observedGeneration: 1, updateRevision: "apex-second" };
  kube.store.merge("apps/v1/statefulsets", KEY, { status });
  await eventually(
    "they are seen",
    () => caches.pods.size === 2 && "status" in (caches.of("StatefulSet").get(KEY) ?? {}),
  );
  await look("right.example");
  expect(images("apps/v1/deployments")).toEqual(["right.example/llmpool/llmpool:test"]);
  expect(kube.store.list("v1/pods").map(({ metadata }) => metadata.name)).toEqual(["loader"]);
  await look("right.example");
  expect(images("batch/v1/jobs")).toEqual(["right.example/llmpool/llmpool:test"]);
});
