import { beforeAll, expect } from "vitest";
import { packageVersion } from "../../src/cli/version.ts";
import { clusterForTests } from "../support/cluster.ts";
import { conditionOf } from "../support/conditions.ts";
import { httpsFiles } from "../support/https-files.ts";
import { type BuiltImages, buildImages } from "../support/images.ts";
import { SMOL_MODEL_SHA256, smolModel } from "../support/model.ts";
import { operate as operateOn, pools, stub, until } from "../support/pools.ts";

// What only a kubelet says: of images, of Secrets, of processes that end.
const cluster = await clusterForTests();
cluster.installCrd();
const { untilCondition, ownedObjects, podUids } = pools(cluster);

let images: BuiltImages;
beforeAll(async () => {
  if (cluster.node) images = await buildImages(cluster);
}, 600_000);

const operate = (namespace: string) =>
  operateOn(cluster, namespace, { version: packageVersion(), registry: images.registry });

const one = (spec: object) => stub({ instances: 1, roles: [{ name: "planner" }], ...spec });

cluster.nodeTest(
  "an image that is not there is a condition in the kubelet's words, and heals with the edit",
  async () => {
    const namespace = await cluster.namespace();
    await operate(namespace);
    await cluster.apply([one({ image: "llmpool.test/none:1" })], namespace);
    const pool = await untilCondition(namespace, "Ready", "False", "Failed");
    expect(conditionOf(pool, "InstancesReady")?.message).toMatch(
      /^0 of 1 .*(ErrImagePull|ImagePullBackOff): .*llmpool.test\/none:1/,
    );
    expect(conditionOf(pool, "Stalled")?.reason).toBe("Failed");
    await cluster.apply([one({})], namespace);
    await untilCondition(namespace, "Ready", "True");
  },
  300_000,
);

cluster.nodeTest(
  "a Secret that is missing is a condition that names it, and its coming heals",
  async () => {
    const namespace = await cluster.namespace();
    await operate(namespace);
    await cluster.apply([one({ router: { auth: { mode: "ApiKey", secretName: "keys" } } })], namespace);
    const pool = await untilCondition(namespace, "RouterReady", "False", "Blocked");
    expect(conditionOf(pool, "RouterReady")?.message).toMatch(/^no router serves: .*secret "keys" not found/);
    await cluster.apply([{ apiVersion: "v1", kind: "Secret", metadata: { name: "keys" }, stringData: {} }], namespace);
    await untilCondition(namespace, "RouterReady", "True");
  },
  300_000,
);

cluster.nodeTest(
  "a model is loaded once onto its volume, whatever was in the way, and served from there",
  async () => {
    const namespace = await cluster.namespace();
    await cluster.kubectl(["label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"]);
    const web = await httpsFiles(cluster.hostAddress, { "/SmolLM2.gguf": await smolModel() });
    const authority = {
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: { name: "authority" },
      data: { "ca.crt": web.authority },
    };
    await cluster.apply([authority], namespace);
    await operate(namespace);
    const container = {
      name: "instance",
      env: [{ name: "NODE_EXTRA_CA_CERTS", value: "/etc/authority/ca.crt" }],
      volumeMounts: [{ name: "authority", mountPath: "/etc/authority" }],
    };
    const podTemplate = {
      spec: { volumes: [{ name: "authority", configMap: { name: "authority" } }], containers: [container] },
    };
    const pool = (path: string) =>
      stub({
        backend: "llama-cpp",
        instances: 2,
        contextTokens: 256,
        sessionsPerInstance: 1,
        model: {
          uri: `${web.url}${path}`,
          sha256: SMOL_MODEL_SHA256,
          secretRef: { name: "hub", key: "token" },
          cache: { storage: "1Gi" },
        },
        resources: { limits: { memory: "700Mi" } },
        podTemplate,
      });

    // A token that is not there, a file that is not there.
    await cluster.apply([pool("/none.gguf")], namespace);
    const first = await untilCondition(namespace, "ModelAvailable", "False", "CreateContainerConfigError");
    expect(conditionOf(first, "ModelAvailable")?.message).toMatch(/secret "hub" not found/);
    await cluster.apply(
      [{ apiVersion: "v1", kind: "Secret", metadata: { name: "hub" }, stringData: { token: "t" } }],
      namespace,
    );
    const second = await untilCondition(namespace, "ModelAvailable", "False", "ModelNotFound");
    expect(conditionOf(second, "ModelAvailable")?.message).toMatch(/none[.]gguf cannot be loaded: .*none[.]gguf/);
    expect((await podUids(namespace)).size).toBe(0);

    await cluster.apply([pool("/SmolLM2.gguf")], namespace);
    const ready = await untilCondition(namespace, "Ready", "True");
    expect(web.asked().filter((line) => line === "GET /SmolLM2.gguf")).toHaveLength(1);
    const [facts = ""] = (await ownedObjects(namespace)).filter((name) => name.startsWith("ConfigMap/"));
    const { data } = await cluster.get<{ data: object }>("configmap", facts.split("/")[1] ?? "", namespace);
    expect(data).toMatchObject({
      format: "gguf",
      bytes: "98362432",
      sha256: SMOL_MODEL_SHA256,
      layers: "30",
      kvHeads: "3",
      headSize: "64",
    });
    await until("instances have said what they compute on", async () => {
      const { status } = await untilCondition(namespace, "Ready", "True");
      const told = {
        state: "Ready",
        device: expect.stringMatching(/CPU/),
        warmupSeconds: expect.any(Number),
        tokensPerSecond: expect.any(Number),
      };
      expect(status?.instanceStatuses).toMatchObject([told, told]);
    });
    expect(conditionOf(ready, "ModelAvailable")?.status).toBe("True");
  },
  600_000,
);
