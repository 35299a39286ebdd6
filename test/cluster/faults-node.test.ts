import { afterAll, beforeAll, expect, onTestFailed } from "vitest";
import { packageVersion } from "../../src/cli/version.ts";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import { buildImages } from "../support/images.ts";
import { operate } from "../support/pools.ts";
import { callFromHere, isReady, type PodObject, type PoolObject, RealPools } from "../support/real-pool.ts";

// What is done to pods that really run, and to the streams that they write.
const cluster = await clusterForTests();
cluster.installCrd();
const undo = new AsyncDisposableStack();
afterAll(() => undo.disposeAsync(), 180_000);

let pools: RealPools;
let registry: string;
beforeAll(async () => {
  if (!cluster.node) return;
  registry = (await buildImages(cluster)).registry;
  pools = new RealPools(cluster, await cluster.longNamespace((work) => undo.defer(work)));
}, 600_000);

/** Simulators that write so many tokens, one every 100 ms. */
const slow = (replyTokens: number, more: object = {}) => ({
  backend: "stub",
  instances: 2,
  drainSeconds: 60,
  store: { ephemeral: true },
  resources: { limits: { memory: "256Mi" }, requests: { cpu: "50m" } },
  roles: [{ name: "planner" }],
  stub: { replyTokens, interTokenMs: 100 },
  ...more,
});

async function operated(): Promise<void> {
  onTestFailed(() => cluster.show(pools.namespace));
  await operate(cluster, pools.namespace, { version: packageVersion(), registry });
}

interface Stream {
  /** Something came. */
  begun: Promise<void>;
  /** Everything that came, when it has ended. */
  text: Promise<string>;
}

/** One answer as a stream, of this instance. */
function stream(address: string, instance: string, maxTokens: number): Stream {
  const begun = Promise.withResolvers<void>();
  const text = (async () => {
    const response = await fetch(`${address}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-llmpool-instance": instance },
      body: JSON.stringify({
        model: "planner",
        stream: true,
        max_tokens: maxTokens,
        messages: [{ role: "user", content: "Say hello." }],
      }),
    });
    let all = "";
    const decoder = new TextDecoder();
    for await (const chunk of response.body ?? []) {
      all += decoder.decode(chunk, { stream: true });
      if (all.includes('"content"')) begun.resolve();
    }
    return all;
  })();
  text.catch(begun.reject);
  return { begun: begun.promise, text };
}

const ask = { model: "planner", max_tokens: 1, messages: [{ role: "user", content: "Say hello." }] };

cluster.nodeTest(
  "scaled down in mid-stream: nobody new is sent there, what runs ends to its last token, then the pod goes",
  async () => {
    await operated();
    await pools.apply("apex", slow(150));
    await pools.untilReady("apex");
    const address = await pools.address("apex");
    await eventually("the router serves", async () => (await callFromHere(address, ask)).status === 200);
    const long = stream(address, "1", 150);
    await long.begun;
    await pools.kubectl("scale", "llmp/apex", "--replicas=1");
    await eventually(
      "its pod leaves",
      async () => (await pools.instancePods("apex")).get("apex-1")?.metadata.deletionTimestamp,
    );
    for (let i = 0; i < 5; i++) {
      const { status, headers } = await callFromHere(address, ask);
      expect([status, headers["x-llmpool-instance"]]).toEqual([200, "0"]);
    }
    expect((await pools.instancePods("apex")).has("apex-1")).toBe(true);
    const text = await long.text;
    expect(text).toMatch(/data: \[DONE\]\s*$/);
    expect(text).not.toContain('"error"');
    await eventually("the pod is gone", async () => !(await pools.instancePods("apex")).has("apex-1"));
    await pools.untilReady("apex");
    await pools.kubectl("delete", "llmp/apex");
    await pools.kubectl("wait", "--for=delete", "pods", "--all", "--timeout=100s");
  },
  300_000,
);

cluster.nodeTest(
  "a pod that is deleted by force in the middle of a roll-out: no other goes meanwhile, its stream ends with an error that says so, and the roll-out ends",
  async () => {
    await operated();
    await pools.apply("apex", slow(150, { drainSeconds: 1 }));
    await pools.untilReady("apex");
    const address = await pools.address("apex");
    await eventually("the router serves", async () => (await callFromHere(address, ask)).status === 200);
    const before = await pools.instancePods("apex");
    const long = stream(address, "0", 150);
    await long.begun;
    await pools.apply("apex", slow(150, { drainSeconds: 1, contextTokens: 512 }));
    await eventually("the roll-out has begun", async () => {
      const pod = (await pools.instancePods("apex")).get("apex-1");
      return pod?.metadata.uid !== before.get("apex-1")?.metadata.uid;
    });
    await pools.kubectl("delete", "pod", "apex-0", "--force", "--grace-period=0");
    const text = await long.text;
    expect(text).toMatch(/data: \{"error":\{.*"code":"(session_lost|instance_unavailable|upstream_error)"/);
    expect(text).not.toContain("[DONE]");
    await pools.untilReady("apex");
    const after = await pools.instancePods("apex");
    expect([...after.keys()].sort()).toEqual(["apex-0", "apex-1"]);
    for (const [name, pod] of after) {
      expect(pod.metadata.uid).not.toBe(before.get(name)?.metadata.uid);
      expect(isReady(pod)).toBe(true);
    }
    await eventually("it answers again", async () => (await callFromHere(address, ask)).status === 200);
  },
  300_000,
);

const uidsOf = (pods: Map<string, PodObject>) =>
  Object.fromEntries([...pods].map(([name, { metadata }]) => [name, metadata.uid]));

cluster.nodeTest(
  "a node whose kubelet is killed: routers drop by themselves what dies there, the condition names it, no pod is made a second time, and all heals with it",
  async () => {
    await operated();
    await pools.apply("apex", slow(4));
    await pools.untilReady("apex");
    const before = await pools.instancePods("apex");
    const [router] = (
      JSON.parse(
        await pools.kubectl("get", "pods", "--selector", "app.kubernetes.io/component=router", "--output", "json"),
      ) as { items: PodObject[] }
    ).items;
    // Its own: of the Service nobody is left when the node counts as lost.
    const address = `http://${router?.status.podIP}:8080`;
    const readyOnes = async () => {
      const { data } = (await (await fetch(`${address}/v1/instances`)).json()) as {
        data: { id: string; state: string }[];
      };
      return data.filter(({ state }) => state === "Ready").map(({ id }) => id);
    };
    expect(await readyOnes()).toEqual(["0", "1"]);

    const revive = cluster.killKubelet();
    await cluster.killContainer(before.get("apex-1")?.status.containerStatuses?.[0]?.containerID ?? "");
    await eventually("the router knows", async () => (await readyOnes()).join() === "0");
    // Nobody else does yet.
    const told = (await pools.instancePods("apex")).get("apex-1");
    expect(told && isReady(told)).toBe(true);
    const serves = async () => {
      const { status, headers } = await callFromHere(address, ask);
      expect([status, headers["x-llmpool-instance"]]).toEqual([200, "0"]);
    };
    for (let i = 0; i < 5; i++) await serves();

    await eventually(
      "the condition names the node",
      async () => {
        const { status } = await cluster.get<PoolObject>("llmp", "apex", pools.namespace);
        const words = status?.conditions?.find(({ type }) => type === "InstancesReady")?.message;
        expect(words).toMatch(/^0 of 2 instances ready; 0: node llmpool-node does not answer/);
        return status?.instanceStatuses?.every(({ state }) => state === "Failed");
      },
      150_000,
    );
    await serves();
    // One who wants it gone is not obeyed before the node has said that it is.
    await pools.kubectl("delete", "pod", "apex-1", "--wait=false");
    await eventually("the operator tells that it ends, and still that its node is lost", async () => {
      const { status } = await cluster.get<PoolObject>("llmp", "apex", pools.namespace);
      const of = (type: string) => status?.conditions?.find((one) => one.type === type);
      return (
        /^1 pods end/.test(of("Progressing")?.message ?? "") &&
        of("Stalled")?.status === "True" &&
        status?.instanceStatuses?.every(({ state }) => state === "Failed")
      );
    });
    expect(uidsOf(await pools.instancePods("apex"))).toEqual(uidsOf(before));
    await serves();

    await revive();
    await eventually("there is another apex-1", async () => {
      const uid = (await pools.instancePods("apex")).get("apex-1")?.metadata.uid;
      return uid !== undefined && uid !== before.get("apex-1")?.metadata.uid;
    });
    await pools.untilReady("apex");
    const after = (await pools.instancePods("apex")).get("apex-0");
    expect(after?.metadata.uid).toBe(before.get("apex-0")?.metadata.uid);
    expect(after?.status.containerStatuses?.[0]?.restartCount).toBe(0);
    await eventually("both serve", async () => (await readyOnes()).join() === "0,1");
    await pools.kubectl("delete", "llmp/apex");
    await pools.kubectl("wait", "--for=delete", "pods", "--all", "--timeout=100s");
  },
  500_000,
);

cluster.nodeTest(
  "a model that is not there and a process that ends at once stop at one pod of three, which the operator removes by itself with the revert",
  async () => {
    await operated();
    await pools.bringModel("models");
    const llama = (more: object = {}) => ({
      backend: "llama-cpp",
      model: { uri: "pvc://models/smollm2.gguf" },
      instances: 3,
      contextTokens: 256,
      sessionsPerInstance: 1,
      drainSeconds: 1,
      store: { ephemeral: true },
      resources: { limits: { memory: "512Mi", cpu: 1 }, requests: { cpu: "100m" } },
      roles: [{ name: "planner" }],
      ...more,
    });
    await pools.apply("llama", llama());
    await pools.untilReady("llama");
    const address = await pools.address("llama");
    const before = uidsOf(await pools.instancePods("llama"));
    const command = ["sh", "-c", "echo it ends at once; exit 3"];
    const bad: [change: object, words: RegExp][] = [
      [{ model: { uri: "pvc://models/none.gguf" } }, /^2 of 3 instances ready; 2: .*none[.]gguf/],
      [
        { podTemplate: { spec: { containers: [{ name: "instance", command }] } } },
        /^2 of 3 instances ready; 2: it ended with exit code 3: it ends at once/,
      ],
    ];
    for (const [change, words] of bad) {
      await pools.apply("llama", llama(change));
      await eventually(
        "it has stopped at one pod, which starts again and again",
        async () => {
          const { status } = await cluster.get<PoolObject>("llmp", "llama", pools.namespace);
          const said = status?.conditions?.find(({ type }) => type === "InstancesReady")?.message;
          expect(said).toMatch(words);
          expect(status?.instanceStatuses?.map(({ state }) => state)).toEqual(["Ready", "Ready", "Failed"]);
          const broken = (await pools.instancePods("llama")).get("llama-2");
          return (broken?.status.containerStatuses?.[0]?.restartCount ?? 0) > 0;
        },
        110_000,
      );
      const { "llama-2": broken, ...others } = uidsOf(await pools.instancePods("llama"));
      const { "llama-2": last, ...same } = before;
      expect(others).toEqual(same);
      expect(broken).not.toBe(last);
      expect((await callFromHere(address, ask)).status).toBe(200);
      await pools.apply("llama", llama());
      await pools.untilReady("llama");
      const healed = uidsOf(await pools.instancePods("llama"));
      expect(healed).toEqual({ ...same, "llama-2": expect.any(String) as string });
      expect([broken, last]).not.toContain(healed["llama-2"]);
    }
  },
  500_000,
);
