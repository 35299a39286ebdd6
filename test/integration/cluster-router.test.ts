import { createHash, randomInt } from "node:crypto";
import { rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { dump } from "js-yaml";
import { expect, onTestFinished, test } from "vitest";
import { TokenCheck } from "../../runtime-image/server/auth.ts";
import { InstanceServer } from "../../runtime-image/server/server.ts";
import { createBackend } from "../../runtime-image/stub/backend.ts";
import type { InstanceObject } from "../../src/api/http.ts";
import type { InstanceSlice } from "../../src/cluster/addresses.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { eventually } from "../support/eventually.ts";
import { FakeKube } from "../support/fake-kube.ts";
import { startClusterRouter } from "../support/pod-router.ts";
import { manifest } from "../support/pool.ts";
import { tempDir } from "../support/temp-dir.ts";

// Instances of pods are on port 8000 of addresses of their own: each gets one of the loopback network, which on Linux is 127.0.0.0/8.
const linux = process.platform === "linux";
const POOLS = "llmpool.dev/v1alpha1/llmpools";
const SLICES = "discovery.k8s.io/v1/endpointslices";

/** A ready stub instance, as in a pod. Closed when the test ends. */
async function instance(dir: string, ip: string, id: string): Promise<InstanceServer> {
  const server = new InstanceServer({
    id,
    sessions: 2,
    requestTimeoutMs: 60_000,
    tokens: await TokenCheck.load(join(dir, "token")),
    clock: systemClock,
    log: silentLogger,
  });
  onTestFinished(() => server.close());
  const stub = { ttftMs: 0, interTokenMs: 0, replyTokens: 4, errorRate: 0 };
  const config = { contextTokens: 4096, sessions: 2, sessionTTLSeconds: 600, stateDir: dir, stub };
  await server.listen(ip, 8000);
  server.become("Ready", await createBackend(config, { clock: systemClock }));
  return server;
}

/** An EndpointSlice as Kubernetes makes it of a Service: pods with their addresses, and whether each is on its way out. */
const slice = (name: string, ...pods: [pod: string, ip: string, terminating?: boolean][]): InstanceSlice => ({
  apiVersion: "discovery.k8s.io/v1",
  kind: "EndpointSlice",
  metadata: { namespace: "default", name, labels: { "kubernetes.io/service-name": "apex-instances" } },
  addressType: "IPv4",
  endpoints: pods.map(([pod, ip, terminating = false]) => ({
    addresses: [ip],
    conditions: { ready: true, serving: !terminating, terminating },
    targetRef: { kind: "Pod", name: pod, uid: `${pod} at ${ip}` },
  })),
});

const spec = (instances: number, roles: object[]) => ({
  backend: "stub",
  instances,
  roles,
  store: { ephemeral: true },
  drainSeconds: 0,
});

test.skipIf(!linux)(
  "a router on a cluster follows its pool and EndpointSlices, and serves on while the API server is away",
  async () => {
    const dir = await tempDir();
    await writeFile(join(dir, "token"), "in-process");
    const kube = await FakeKube.start();
    let kubeOpen = true;
    onTestFinished(async () => {
      if (kubeOpen) await kube.close();
    });
    const kubeconfig = {
      apiVersion: "v1",
      kind: "Config",
      clusters: [{ name: "c", cluster: { server: kube.url, "insecure-skip-tls-verify": true } }],
      users: [{ name: "u", user: {} }],
      contexts: [{ name: "x", context: { cluster: "c", user: "u", namespace: "default" } }],
      "current-context": "x",
    };
    await writeFile(join(dir, "kubeconfig"), dump(kubeconfig));
    const net = `127.${randomInt(10, 250)}.${randomInt(1, 250)}`;
    await instance(dir, `${net}.1`, "0");
    const second = await instance(dir, `${net}.2`, "1");
    const pool = manifest(spec(1, [{ name: "planner" }])) as never as KubeObject;
    kube.store.create(POOLS, { ...pool, metadata: { ...pool.metadata, namespace: "default", generation: 1 } });
    kube.store.create(SLICES, slice("a", ["apex-0", `${net}.1`]));

    const keys = await tempDir();
    const sha256 = createHash("sha256").update("k1").digest("hex");
    await writeFile(join(keys, "alice"), JSON.stringify({ sha256 }));
    const flags = {
      pool: "apex",
      kubeconfig: join(dir, "kubeconfig"),
      tokenFile: "token",
      secret: new Map([["keys", keys]]),
    };
    const { url, said } = await startClusterRouter(flags, dir);

    const rows = async () => {
      const { data } = (await (await fetch(`${url}/v1/instances`)).json()) as { data: InstanceObject[] };
      return data.map(({ id, state, pod }) => `${id} ${state} ${pod}`);
    };
    const ask = async (role: string, key = "") => {
      const body = JSON.stringify({ model: role, messages: [{ role: "user", content: "hi" }] });
      const answer = await fetch(`${url}/v1/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
        body,
      });
      await answer.text();
      return `${answer.status} ${answer.headers.get("x-llmpool-instance")}`;
    };
    await eventually("the instance is ready", async () => (await rows()).includes("0 Ready apex-0"));
    expect(await ask("planner")).toBe("200 0");

    // A pod more, in a slice of its own, and an edit with a new role: no restart.
    kube.store.create(SLICES, slice("b", ["apex-1", `${net}.2`]));
    const edited = spec(2, [
      { name: "planner", instance: 0 },
      { name: "coder", instance: 1 },
    ]);
    kube.store.merge(POOLS, "default/apex", { spec: edited, metadata: { generation: 2 } });
    await eventually("the second instance is ready", async () => (await rows()).includes("1 Ready apex-1"));
    expect(await ask("coder")).toBe("200 1");

    // A pod that moves from one slice to another is in both for a while.
    kube.store.merge(SLICES, "default/a", slice("a", ["apex-0", `${net}.1`], ["apex-1", `${net}.2`]));
    kube.store.delete(SLICES, "default/b");
    expect(await ask("coder")).toBe("200 1");

    // Without its Service, which somebody has deleted, the pods are what they were; with it comes the news.
    kube.store.delete(SLICES, "default/a");
    await eventually("the router has heard", () => said().includes("no EndpointSlice"));
    expect([await ask("planner"), await ask("coder")]).toEqual(["200 0", "200 1"]);

    // A pod that is told to go takes no new work, though its instance still answers.
    kube.store.create(SLICES, slice("c", ["apex-0", `${net}.1`], ["apex-1", `${net}.2`, true]));
    await eventually("it drains", async () => (await rows()).includes("1 Draining apex-1"));

    // A slice that stays behind names a pod that is gone, and another pod has come in its place.
    kube.store.merge(SLICES, "default/c", slice("c", ["apex-0", `${net}.1`], ["apex-1", `${net}.2`]));
    await eventually("the slice is believed", async () => (await rows()).includes("1 Ready apex-1"));
    await second.close();
    await eventually("it does not answer", async () => (await rows()).includes("1 Failed apex-1"));
    await instance(dir, `${net}.3`, "1");
    kube.store.create(SLICES, slice("d", ["apex-1", `${net}.3`]));
    await eventually("its successor is ready", async () => (await rows()).includes("1 Ready apex-1"));
    expect([await ask("planner"), await ask("coder")]).toEqual(["200 0", "200 1"]);

    // Another token: a new instance knows no other, the first reads it when it is given it.
    await writeFile(join(dir, "token"), "another");
    await instance(dir, `${net}.4`, "1");
    kube.store.merge(SLICES, "default/d", slice("d", ["apex-1", `${net}.4`]));
    await eventually("the new instance is asked with it", async () => (await ask("coder")) === "200 1");
    expect(await ask("planner")).toBe("200 0");

    // Keys come with an edit of the pool, and go with an edit of the mounted Secret, which needs no API server.
    const locked = { ...edited, router: { auth: { mode: "ApiKey", secretName: "keys" } } };
    kube.store.merge(POOLS, "default/apex", { spec: locked, metadata: { generation: 3 } });
    await eventually("a key is needed", async () => (await ask("planner")) === "401 null");
    expect(await ask("planner", "k1")).toBe("200 0");
    await kube.close();
    kubeOpen = false;
    expect(await ask("planner", "k1")).toBe("200 0");
    await rename(join(keys, "alice"), join(keys, ".alice"));
    await eventually("the key opens nothing", async () => (await ask("planner", "k1")) === "401 null");
    await rename(join(keys, ".alice"), join(keys, "alice"));
    await eventually("it does again", async () => (await ask("planner", "k1")) === "200 0");
  },
);
