import { afterAll, beforeAll, expect, onTestFailed } from "vitest";
import { packageVersion } from "../../src/cli/version.ts";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import { buildImages } from "../support/images.ts";
import { operate } from "../support/pools.ts";
import { callFromHere, isReady, RealPools } from "../support/real-pool.ts";

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
