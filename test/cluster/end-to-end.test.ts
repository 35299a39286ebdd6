import { afterAll, beforeAll, expect, onTestFailed } from "vitest";
import { install } from "../support/chart.ts";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import { buildImages } from "../support/images.ts";
import { callFromHere, isReady, RealPools } from "../support/real-pool.ts";

const cluster = await clusterForTests();
const undo = new AsyncDisposableStack();
const atEnd = (work: () => Promise<void>) => undo.defer(work);
afterAll(() => undo.disposeAsync(), 180_000);

let pools: RealPools;
let system: string;
/** What is in the pools' namespace beside them. */
let around: string[];
const show = () => onTestFailed(() => cluster.show(pools.namespace));

/** Two instances of the real model; planner is at home on the first, coder on the second. */
const llama = (more: object = {}) => ({
  backend: "llama-cpp",
  model: { uri: "pvc://models/smollm2.gguf" },
  instances: 2,
  contextTokens: 512,
  sessionsPerInstance: 1,
  drainSeconds: 5,
  resources: { limits: { memory: "512Mi", cpu: 1 }, requests: { cpu: "200m" } },
  roles: [
    { name: "planner", instance: 0 },
    { name: "coder", instance: 1 },
  ],
  ...more,
});

/** Three simulators in one pod on one card, two real models in another. */
const packed = (more: object = {}) => ({
  backend: "stub",
  instances: 3,
  drainSeconds: 0,
  resources: { limits: { memory: "256Mi" }, requests: { cpu: "100m" } },
  gpu: { mode: "Packed", instancesPerPod: 3 },
  roles: [{ name: "reader", variant: "real" }],
  variants: [
    {
      name: "real",
      backend: "llama-cpp",
      model: { uri: "pvc://models/smollm2.gguf" },
      instances: 2,
      contextTokens: 512,
      sessionsPerInstance: 1,
      resources: { limits: { memory: "512Mi", cpu: 1 }, requests: { cpu: "200m" } },
      gpu: { mode: "Packed", instancesPerPod: 2 },
    },
  ],
  ...more,
});

/** Ids of the instances that the router holds for ready. */
async function readyInstances(address: string): Promise<string[]> {
  const { data } = (await (await fetch(`${address}/v1/instances`)).json()) as { data: { id: string; state: string }[] };
  return data.filter(({ state }) => state === "Ready").map(({ id }) => id);
}

const ask = (model: string) => ({ model, max_tokens: 8, messages: [{ role: "user", content: "Say hello." }] });

beforeAll(async () => {
  if (!cluster.node) return;
  const { registry } = await buildImages(cluster);
  system = await cluster.longNamespace(atEnd);
  await cluster.kubectl(["label", "namespace", system, "pod-security.kubernetes.io/enforce=restricted"]);
  await install(cluster, system, { "image.registry": registry }, ["--wait", "--timeout=100s"], atEnd);
  pools = new RealPools(cluster, await cluster.longNamespace(atEnd));
  await pools.prepare();
  await pools.bringModel("models");
  around = await pools.everything();
  atEnd(await cluster.addCards(2));
  await pools.apply("apex", llama());
  await pools.apply("packed", packed());
}, 600_000);

cluster.nodeTest("a pool of a real model answers by the name of its Service, each role from its instance", async () => {
  show();
  const pool = await pools.untilReady("apex");
  expect(pool.status).toMatchObject({
    url: `http://apex.${pools.namespace}.svc:8080`,
    instanceStatuses: [
      { id: "0", pod: "apex-0", state: "Ready", restarts: 0 },
      { id: "1", pod: "apex-1", state: "Ready", restarts: 0 },
    ],
  });
  await pools.address("apex");
  const url = `${pool.status?.url}/v1/chat/completions`;
  for (const [role, instance] of [
    ["planner", "0"],
    ["coder", "1"],
  ] as const) {
    const answer = await pools.callFromPod(url, ask(role));
    expect(answer.status).toBe(200);
    expect(answer.headers).toMatchObject({ "x-llmpool-instance": instance, "x-llmpool-role": role });
    expect(answer.body.choices?.[0]?.message.content).toMatch(/\S/);
    expect(answer.body.usage?.completion_tokens).toBeGreaterThan(0);
  }
  // Nobody but the router and the operator knows the token.
  const { status } = (await pools.instancePods("apex")).get("apex-0") ?? {};
  const past = await pools.callFromPod(`http://${status?.podIP}:8000/v1/chat/completions`, ask("planner"));
  expect([past.status, past.body.error?.code]).toEqual([401, "unauthorized"]);
});

cluster.nodeTest("a pod that is killed comes back as the same instance, and the other is not touched", async () => {
  show();
  await pools.untilReady("apex");
  const before = await pools.instancePods("apex");
  const goOn = await cluster.cordon();
  await pools.kubectl("delete", "pod", "apex-1", "--grace-period=0", "--force");
  const address = await pools.address("apex");
  await eventually("the router knows", async () => (await readyInstances(address)).join() === "0");
  // Longer than a kubelet takes to find a router not ready.
  for (let i = 0; i < 40; i++) {
    const answer = await callFromHere(address, ask("planner"));
    expect([answer.status, answer.headers["x-llmpool-instance"]]).toEqual([200, "0"]);
  }
  await goOn();
  await eventually("there is another apex-1", async () => {
    const uid = (await pools.instancePods("apex")).get("apex-1")?.metadata.uid;
    return uid !== undefined && uid !== before.get("apex-1")?.metadata.uid;
  });
  await pools.untilReady("apex");
  const back = await callFromHere(address, ask("coder"));
  expect([back.status, back.headers["x-llmpool-instance"]]).toEqual([200, "1"]);
  const after = (await pools.instancePods("apex")).get("apex-0");
  expect(after?.metadata.uid).toBe(before.get("apex-0")?.metadata.uid);
  expect(after?.status.containerStatuses?.[0]?.restartCount).toBe(0);
});

cluster.nodeTest("kubectl scale adds an instance and takes it away, and no other is touched", async () => {
  show();
  await pools.untilReady("apex");
  const before = await pools.instancePods("apex");
  await pools.kubectl("scale", "llmp/apex", "--replicas=3");
  expect((await pools.untilReady("apex")).status?.readyInstances).toBe(3);
  const third = await callFromHere(await pools.address("apex"), ask("planner"), { "x-llmpool-instance": "2" });
  expect([third.status, third.headers["x-llmpool-instance"]]).toEqual([200, "2"]);
  await pools.kubectl("scale", "llmp/apex", "--replicas=2");
  await pools.untilReady("apex");
  await pools.kubectl("wait", "--for=delete", "pod/apex-2", "--timeout=60s");
  const uids = (pods: typeof before) => [...pods].map(([name, { metadata }]) => [name, metadata.uid]);
  expect(uids(await pools.instancePods("apex"))).toEqual(uids(before));
});

cluster.nodeTest("an edit replaces one instance after the other, and every call meanwhile is answered", async () => {
  show();
  await pools.untilReady("apex");
  const before = await pools.instancePods("apex");
  const address = await pools.address("apex");
  await pools.apply("apex", llama({ contextTokens: 640 }));
  const replaced = async () => {
    const now = await pools.instancePods("apex");
    expect([...now.values()].filter(isReady).length).toBeGreaterThanOrEqual(1);
    return [...now].every(([name, pod]) => pod.metadata.uid !== before.get(name)?.metadata.uid && isReady(pod));
  };
  while (!(await replaced())) {
    for (const role of ["planner", "coder"]) {
      const answer = await callFromHere(address, ask(role), { "x-session-id": "edited" });
      expect(answer.status, JSON.stringify(answer)).toBe(200);
    }
  }
  const after = await pools.untilReady("apex");
  expect(after.status?.readyInstances).toBe(2);
});

cluster.nodeTest("the router serves, and finds a pod that moved, while there is no operator", async () => {
  show();
  await pools.untilReady("apex");
  await cluster.kubectl(["scale", "deployment/llmpool", "--replicas=0", "--namespace", system]);
  await cluster.kubectl(["wait", "--for=delete", "pod", "--all", "--timeout=60s", "--namespace", system]);
  const address = await pools.address("apex");
  const { status } = await callFromHere(address, ask("coder"));
  expect(status).toBe(200);
  const before = (await pools.instancePods("apex")).get("apex-1")?.metadata.uid;
  await pools.kubectl("delete", "pod", "apex-1", "--grace-period=1");
  await eventually("another apex-1 answers", async () => {
    const pod = (await pools.instancePods("apex")).get("apex-1");
    expect(pod && pod.metadata.uid !== before && isReady(pod)).toBe(true);
    const answer = await callFromHere(address, ask("coder"));
    expect([answer.status, answer.headers["x-llmpool-instance"]]).toEqual([200, "1"]);
    return true;
  });
  await cluster.kubectl(["scale", "deployment/llmpool", "--replicas=1", "--namespace", system]);
  await pools.untilReady("apex");
});

cluster.nodeTest(
  "the router serves while the API server answers nobody, and an instance that dies comes back",
  async () => {
    show();
    await pools.untilReady("apex");
    const address = await pools.address("apex");
    const container =
      (await pools.instancePods("apex")).get("apex-1")?.status.containerStatuses?.[0]?.containerID ?? "";
    const goOn = cluster.pauseApiServer();
    const session = { "x-session-id": "s1" };
    for (const role of ["planner", "coder"]) expect((await callFromHere(address, ask(role), session)).status).toBe(200);
    await cluster.killContainer(container);
    await eventually("it has died", async () => !(await readyInstances(address)).includes("1"));
    expect((await callFromHere(address, ask("planner"), session)).status).toBe(200);
    await eventually("the kubelet has started it again", async () => (await readyInstances(address)).includes("1"));
    const back = await callFromHere(address, ask("coder"), session);
    expect([back.status, back.headers["x-llmpool-instance"]]).toEqual([200, "1"]);
    goOn();
    await eventually("the pool says that it has started again", async () => {
      const { status } = await pools.untilReady("apex");
      return status?.instanceStatuses?.some(({ id, restarts }) => id === "1" && restarts === 1);
    });
  },
);

cluster.nodeTest("in a Packed pod a process that takes more than its memory starts again, alone", async () => {
  show();
  await pools.untilReady("packed");
  const pods = await pools.instancePods("packed");
  expect([...pods.keys()].sort()).toEqual(["packed-0", "packed-real-0"]);
  const address = await pools.address("packed");
  const say = (instance: string, content: string) =>
    callFromHere(address, { model: "stub", messages: [{ role: "user", content }] }, { "x-llmpool-instance": instance });
  const real = await callFromHere(address, ask("reader"), { "x-llmpool-instance": "real-1" });
  expect([real.status, real.headers["x-llmpool-instance"]]).toEqual([200, "real-1"]);

  const long = "!stub interTokenMs=100 replyTokens=50\nGo on.";
  const [first, greedy, third] = await Promise.all([
    say("0", long),
    say("1", "!stub leak=400 interTokenMs=100 replyTokens=50\nMore."),
    say("2", long),
  ]);
  expect(["upstream_error", "instance_unavailable"]).toContain(greedy.body.error?.code);
  for (const { status, body } of [first, third]) expect([status, body.usage?.completion_tokens]).toEqual([200, 50]);
  const supervisor = `http://${pods.get("packed-0")?.status.podIP}:8200/healthz`;
  await eventually("it is back", async () => {
    const { instances } = (await (await fetch(supervisor)).json()) as { instances: object[] };
    expect(instances).toMatchObject([
      { id: "0", state: "Ready", restarts: 0 },
      // Once, or twice when the router has tried the call again.
      { id: "1", state: "Ready", restarts: expect.toSatisfy((n: number) => n > 0) as number },
      { id: "2", state: "Ready", restarts: 0 },
    ]);
    return true;
  });
  expect((await say("1", "Hello.")).status).toBe(200);
  expect(await pools.kubectl("logs", "packed-0")).toContain("OutOfMemory");
  const { status } = (await pools.instancePods("packed")).get("packed-0") ?? {};
  expect(status?.containerStatuses?.[0]?.restartCount).toBe(0);
});

cluster.nodeTest("an edit reaches the processes of a Packed pod, which stays", async () => {
  show();
  await pools.untilReady("packed");
  const before = (await pools.instancePods("packed")).get("packed-0");
  await pools.apply("packed", packed({ instances: 2, contextTokens: 1024 }));
  // What the processes were told when they were started.
  const told = `
    const fs = require("node:fs");
    const env = (pid) => { try { return fs.readFileSync("/proc/" + pid + "/environ", "utf8"); } catch { return ""; } };
    const found = fs.readdirSync("/proc").filter(Number).map((pid) => /LLMPOOL_INSTANCE=([^\\0]*)/.exec(env(pid))?.[1]);
    console.log(found.filter(Boolean).map(JSON.parse).map(({ id, contextTokens }) => id + " " + contextTokens).sort().join());`;
  await eventually("the two that are left have their new context", async () => {
    const now = await pools.kubectl("exec", "packed-0", "--", "node", "--eval", told);
    expect(now.trim()).toBe("0 1024,1 1024");
    return true;
  });
  expect((await pools.untilReady("packed")).status?.readyInstances).toBe(2);
  const after = (await pools.instancePods("packed")).get("packed-0");
  expect(after?.metadata.uid).toBe(before?.metadata.uid);
  expect(after?.status.containerStatuses?.[0]?.restartCount).toBe(0);
});

cluster.nodeTest(
  "a pod that is to go ends what it generates or gives it up in time, and new sessions go elsewhere",
  async () => {
    show();
    const stubs = (more: object) => ({
      backend: "stub",
      instances: 2,
      ...more,
      resources: { requests: { cpu: "50m" }, limits: { memory: "256Mi" } },
      roles: [{ name: "free" }],
    });
    /** What instance 1 streams, to its end. */
    const generate = async (address: string, replyTokens: number) => {
      const content = `!stub interTokenMs=100 replyTokens=${replyTokens}\nGo on.`;
      const response = await fetch(`${address}/v1/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json", "x-llmpool-instance": "1" },
        body: JSON.stringify({ model: "stub", stream: true, messages: [{ role: "user", content }] }),
      });
      return response.text();
    };
    const isRunning = async (address: string) => {
      const { data } = (await (await fetch(`${address}/v1/instances`)).json()) as {
        data: { id: string; running: number }[];
      };
      return data.some(({ id, running }) => id === "1" && running === 1);
    };
    const deleteFirst = async (address: string) => {
      await eventually("it generates", () => isRunning(address));
      const uid = (await pools.instancePods("drain")).get("drain-1")?.metadata.uid;
      await pools.kubectl("delete", "pod", "drain-1", "--wait=false");
      return uid;
    };
    await pools.apply("drain", stubs({ drainSeconds: 60 }));
    await pools.untilReady("drain");
    const address = await pools.address("drain");

    const whole = generate(address, 80);
    const first = await deleteFirst(address);
    await eventually("the router has heard", async () => (await readyInstances(address)).join() === "0");
    for (let i = 0; i < 5; i++) {
      const answer = await callFromHere(address, ask("free"), { "x-session-id": `new-${i}` });
      expect([answer.status, answer.headers["x-llmpool-instance"]]).toEqual([200, "0"]);
    }
    // All this while it was there, and at work.
    expect((await pools.instancePods("drain")).get("drain-1")?.metadata.uid).toBe(first);
    const ended = await whole;
    expect(ended.match(/"content":"/g)?.length).toBeGreaterThanOrEqual(80);
    expect(ended).toMatch(/\[DONE\]\s*$/);
    await eventually("another has come", async () => {
      const pod = (await pools.instancePods("drain")).get("drain-1");
      return pod?.metadata.uid !== first && pod && isReady(pod);
    });

    // Longer than it may take: it is given up, and the pod goes.
    // The new context brings new pods, which have the new time.
    await pools.apply("drain", stubs({ drainSeconds: 1, contextTokens: 1024 }));
    await pools.untilReady("drain");
    const cut = generate(address, 1200);
    const second = await deleteFirst(address);
    const said = await cut;
    expect(said).toMatch(/"content":/);
    expect(said).toMatch(/"code":"(instance_unavailable|upstream_error)"/);
    expect(said).not.toContain("[DONE]");
    await eventually("another has come", async () => {
      const pod = (await pools.instancePods("drain")).get("drain-1");
      return pod?.metadata.uid !== second && pod && isReady(pod);
    });
  },
);

cluster.nodeTest("deleted pools leave nothing", async () => {
  show();
  await pools.untilReady("apex");
  await pools.kubectl("delete", "llmp", "apex", "packed", "drain");
  await eventually("nothing of the pools is left", async () => {
    expect(await pools.everything()).toEqual(around);
    return true;
  });
});
