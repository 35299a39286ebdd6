import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, onTestFinished } from "vitest";
import { addressesOf, type InstanceSlice } from "../../src/cluster/addresses.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import { PodInstances } from "../support/pod-instances.ts";
import { podRouter, routerKubeconfig } from "../support/pod-router.ts";
import { poolPlan } from "../support/pool.ts";
import { operate, pools, stub, until } from "../support/pools.ts";
import { hasRedis, RedisServer } from "../support/redis.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { tempDir } from "../support/temp-dir.ts";

const cluster = await clusterForTests();
cluster.installCrd();
const { poolOf, untilCondition } = pools(cluster);

const READY = ["0 Ready apex-0 stub", "1 Ready apex-1 stub"];
const roles = [{ name: "planner", instance: 0 }, { name: "free" }];

const run = (name: string, body: () => Promise<void>) => hasRedis && cluster.nodeTest(name, body);

run("routers of one pool agree, learn pods and roles without a restart, and serve on alone", async () => {
  const namespace = await cluster.namespace();
  await cluster.addFakeNodes({ count: 1 });
  const stop = await operate(cluster, namespace);
  const store = { redisSecretRef: { name: "apex-redis", key: "url" } };
  const spec = { store, router: { replicas: 2 } };
  await cluster.apply([stub({ ...spec, roles })], namespace);
  await untilCondition(namespace, "Ready", "True");

  const secret = await cluster.get<KubeObject & { data: { token: string } }>("secret", "apex-token", namespace);
  const token = Buffer.from(secret.data.token, "base64").toString();
  const instances = await PodInstances.with(cluster, namespace, token, 3);
  const first = await instances.serve("apex-0", "0");
  await instances.serve("apex-1", "1");

  // What the operator asks of them is in the status.
  await until("the status has what instances say of themselves", async () => {
    const { status } = await poolOf(namespace);
    const told = { state: "Ready", device: "stub", warmupSeconds: 1.2, tokensPerSecond: 62, restarts: 0 };
    expect(status?.instanceStatuses).toMatchObject([told, told]);
  });
  // Nobody talks to an instance without the pool's token.
  for (const authorization of ["", "Bearer wrong"]) {
    const refused = await fetch(`${first}/v1/models`, { headers: { authorization } });
    expect([refused.status, await refused.json()]).toMatchObject([401, { error: { code: "unauthorized" } }]);
  }

  const redis = await RedisServer.start();
  onTestFinished(() => redis[Symbol.asyncDispose]());
  const secrets = join(await tempDir(), "apex-redis");
  await mkdir(secrets);
  await writeFile(join(secrets, "url"), redis.url);
  let wire: TcpProxy | undefined;
  onTestFinished(() => wire?.[Symbol.asyncDispose]());
  const kubeconfig = await routerKubeconfig(cluster, namespace, async ({ hostname, port }) => {
    wire = await TcpProxy.start(Number(port), hostname);
    return `https://127.0.0.1:${wire.port}`;
  });
  const start = () => podRouter(namespace, kubeconfig, instances.tokenFile, new Map([["apex-redis", secrets]]));
  const [a, b] = [await start(), await start()];
  for (const one of [a, b])
    await until("both instances are ready", async () => expect(await one.rows()).toEqual(READY));

  expect([await a.ask("planner"), await b.ask("planner")]).toEqual(["200 0", "200 0"]);
  // A session is where it is, whoever is asked; an agent has one place in every router.
  for (const session of ["s1", "s2", "s3", "s4"]) {
    const home = await a.ask("free", session);
    expect([await b.ask("free", session), await a.ask("free", session)]).toEqual([home, home]);
  }

  // A role and a pod more: no restart.
  await cluster.apply([stub({ ...spec, instances: 3, roles: [...roles, { name: "critic", instance: 2 }] })], namespace);
  await eventually("the third pod runs", async () => {
    const pod = await cluster.get<KubeObject & { status: { podIP?: string } }>("pod", "apex-2", namespace);
    return pod.status.podIP !== undefined;
  });
  await instances.serve("apex-2", "2");
  for (const one of [a, b]) {
    await until("it has the third", async () => expect(await one.rows()).toContain("2 Ready apex-2 stub"));
    expect(await one.ask("critic")).toBe("200 2");
  }

  // Without the operator and the API server both go on.
  await stop();
  wire?.partition();
  for (const one of [a, b])
    expect([await one.ask("planner"), await one.ask("free", "s1")]).toEqual(["200 0", await a.ask("free", "s1")]);
  await cluster.kubectl(["delete", "pod", "apex-2", "--namespace", namespace, "--grace-period=0", "--force"]);
  expect(await a.rows()).toContain("2 Ready apex-2 stub");
  wire?.heal();
  // What happened meanwhile is seen once it is back.
  for (const one of [a, b])
    await until("the deleted pod is gone", async () => expect(await one.rows()).not.toContain("2 Ready apex-2 stub"));
  expect(await b.ask("planner")).toBe("200 0");
});

cluster.ownTest("EndpointSlices tell what a router has to know of the pods", async () => {
  const namespace = await cluster.namespace();
  await cluster.addFakeNodes({ count: 1 });
  await operate(cluster, namespace);
  const spec = { instances: 3, variants: [{ name: "code", instances: 1 }] };
  await cluster.apply([stub(spec)], namespace);
  await untilCondition(namespace, "Ready", "True");
  const list = async <T>(kind: string, selector: string) => {
    const args = ["get", kind, "--namespace", namespace, "--selector", selector, "--output", "json"];
    return (JSON.parse(await cluster.kubectl(args)) as { items: T[] }).items;
  };
  const told = async (plan = poolPlan(spec)) => {
    const slices = await list<InstanceSlice>("endpointslices", "kubernetes.io/service-name=apex-instances");
    return addressesOf(plan, slices).map(
      ({ id, pod, url, draining }) => `${id} ${pod} ${url}${draining ? " draining" : ""}`,
    );
  };
  const pods = await list<KubeObject & { status: { podIP: string } }>("pods", "app.kubernetes.io/component=instance");
  const ipOf = (name: string) => pods.find(({ metadata }) => metadata.name === name)?.status.podIP;
  const all = [
    `0 apex-0 http://${ipOf("apex-0")}:8000`,
    `1 apex-1 http://${ipOf("apex-1")}:8000`,
    `2 apex-2 http://${ipOf("apex-2")}:8000`,
    `code-0 apex-code-0 http://${ipOf("apex-code-0")}:8000`,
  ];
  await until("they tell of every pod", async () => expect(await told()).toEqual(all));

  // One that still loads is among them: its state the router asks itself. One that has ended is not, and one that ends is said to.
  const change = (name: string, type: string, patch: object, ...more: string[]) =>
    cluster.kubectl([
      ...["patch", "pod", name, "--namespace", namespace, `--type=${type}`],
      ...more,
      "--patch",
      JSON.stringify(patch),
    ]);
  const unready = { status: { conditions: ["Ready", "ContainersReady"].map((type) => ({ type, status: "False" })) } };
  await change("apex-0", "strategic", unready, "--subresource=status");
  const held = (finalizers: string[]) => change("apex-1", "merge", { metadata: { finalizers } });
  await held(["llmpool.dev/test"]);
  onTestFinished(() => held([]).then(() => {}));
  await cluster.kubectl(["delete", "pod", "apex-1", "--namespace", namespace, "--wait=false"]);
  await until("apex-1 is said to end", async () => {
    expect((await told())[1]).toBe(`${all[1]} draining`);
    const [slice] = await list<{ endpoints: { conditions: object; targetRef: { name: string } }[] }>(
      "endpointslices",
      "kubernetes.io/service-name=apex-instances",
    );
    expect(slice?.endpoints.find(({ targetRef }) => targetRef.name === "apex-0")?.conditions).toMatchObject({
      serving: false,
    });
  });
  expect((await told())[0]).toBe(all[0]);
  await held([]);
  await until("another apex-1 has come, and nothing of the first is left", async () => {
    const now = await told();
    expect(now.map((line) => line.split(" ").slice(0, 2).join(" "))).toEqual([
      "0 apex-0",
      "1 apex-1",
      "2 apex-2",
      "code-0 apex-code-0",
    ]);
    expect(now.join()).not.toContain("draining");
  });
});
