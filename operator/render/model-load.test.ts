import type { V1ConfigMap, V1Job, V1PersistentVolumeClaim, V1StatefulSet } from "@kubernetes/client-node";
import { expect, test } from "vitest";
import { InstanceConfig } from "../../src/api/instance.ts";
import { ModelFacts } from "../../src/api/model-facts.ts";
import { planPool } from "../../src/core/plan/plan.ts";
import type { KubeObject, ObjectOf } from "../../src/kube/object.ts";
import { pool as makePool } from "../../test/support/pool.ts";
import { loadsOf } from "./model-load.ts";
import { renderPool } from "./render.ts";
import { defaultImages } from "./settings.ts";
import { variantsOf } from "./variant.ts";

const MODEL = {
  uri: "hf://org/repo@main",
  secretRef: { name: "hf", key: "t" },
  cache: { storage: "40Gi", storageClassName: "fast" },
};
const SPEC = { backend: "hf-cuda", model: MODEL, instances: 2, gpu: {} };
const FACTS: ModelFacts = {
  path: "hf/org/repo/abc/snapshot",
  format: "safetensors",
  bytes: 16_000_000_000,
  layers: 32,
};

const poolOf = (spec: object) => makePool({ ...SPEC, ...spec });
const loads = (spec: object) => loadsOf(variantsOf(poolOf(spec), planPool(poolOf(spec))));

function render(spec: object = {}, facts?: ReadonlyMap<string, ModelFacts>): KubeObject[] {
  const pool = poolOf(spec);
  const settings = { images: defaultImages("1.0.0"), operatorNamespace: "llmpool-system", podMonitors: false };
  return renderPool(pool, planPool(pool), { ...settings, ...(facts && { facts }) });
}

const of = <T>(objects: KubeObject[], kind: string): ObjectOf<T>[] =>
  objects.filter((object) => object.kind === kind) as ObjectOf<T>[];
const jobsOf = (spec: object = {}) => of<V1Job>(render(spec), "Job");
const podOf = (job: ObjectOf<V1Job> | undefined) => job?.spec?.template.spec;
const containerOf = (job: ObjectOf<V1Job> | undefined) => podOf(job)?.containers[0];

test("a model with a cache has one volume and one Job that fills it, which bears the token and asks for no card", () => {
  const objects = render();
  const [job, ...more] = of<V1Job>(objects, "Job");
  expect(more).toEqual([]);
  expect(
    of<V1PersistentVolumeClaim>(objects, "PersistentVolumeClaim").map(({ metadata, spec }) => [metadata.name, spec]),
  ).toContainEqual([
    "apex-model",
    { accessModes: ["ReadWriteMany"], storageClassName: "fast", resources: { requests: { storage: "40Gi" } } },
  ]);
  expect(containerOf(job)).toMatchObject({
    name: "loader",
    image: "llmpool/llmpool:1.0.0",
    args: ["load", MODEL.uri, "--cache-dir", "/var/lib/llmpool/cache", "--facts", "/dev/termination-log"],
    env: [{ name: "HOME" }, { name: "HF_TOKEN", valueFrom: { secretKeyRef: MODEL.secretRef } }],
    resources: { requests: { cpu: "100m", memory: "128Mi" }, limits: { memory: "1Gi" } },
  });
  expect(podOf(job)).toMatchObject({
    restartPolicy: "OnFailure",
    automountServiceAccountToken: false,
    tolerations: [{ key: "nvidia.com/gpu" }],
  });
  // Instances get the files, and neither the token nor a way to write.
  const [set] = of<V1StatefulSet>(objects, "StatefulSet");
  const instance = set?.spec?.template.spec?.containers[0];
  expect(instance?.env?.map(({ name }) => name)).not.toContain("HF_TOKEN");
  expect(instance?.volumeMounts).toContainEqual({ name: "cache", mountPath: "/var/lib/llmpool/cache", readOnly: true });
});

test("once its facts are known they are a ConfigMap in place of the Job, and instances are told where the files lie", () => {
  const [load] = loads({});
  const objects = render({}, new Map([[load?.factsName ?? "", FACTS]]));
  expect(of<V1Job>(objects, "Job")).toEqual([]);
  const maps = of<V1ConfigMap>(objects, "ConfigMap").filter(({ metadata }) => metadata.name === load?.factsName);
  expect(ModelFacts.parse(maps[0]?.data)).toEqual(FACTS);
  const [set] = of<V1StatefulSet>(objects, "StatefulSet");
  const env = set?.spec?.template.spec?.containers[0]?.env?.find(({ name }) => name === "LLMPOOL_INSTANCE");
  expect(InstanceConfig.parse(JSON.parse(env?.value ?? "")).modelPath).toBe(
    "/var/lib/llmpool/cache/hf/org/repo/abc/snapshot",
  );
});

test("variants with the pool's model share its volume and its loader; one with a model of its own has its own", () => {
  const own = { uri: "https://host/m.gguf", cache: { claimName: "theirs" } };
  const spec = {
    variants: [
      { name: "more", instances: 1, contextTokens: 512 },
      { name: "code", instances: 1, backend: "llama-cpp", model: own },
    ],
  };
  expect(loads(spec).map(({ claimName, model }) => [claimName, model.uri])).toEqual([
    ["apex-model", MODEL.uri],
    ["theirs", own.uri],
  ]);
  expect(of(render(spec), "PersistentVolumeClaim").map(({ metadata }) => metadata.name)).toEqual([
    "apex-router",
    "apex-model",
  ]);
});

test.each(["file:///models/m.gguf", "pvc://models/m.gguf"])("%s lies where it is used: nothing is loaded", (uri) => {
  const spec = { backend: "llama-cpp", gpu: undefined, model: { uri, cache: { storage: "1Gi" } } };
  expect(jobsOf(spec)).toEqual([]);
  expect(of(render(spec), "PersistentVolumeClaim").map(({ metadata }) => metadata.name)).toEqual(["apex-router"]);
});

test("another model, hash or volume is another load; another token or environment another try at the same", () => {
  const [first] = loads({});
  const differs = (model: object, more: object = {}) => {
    const [other] = loads({ model: { ...MODEL, ...model }, ...more });
    return [other?.factsName !== first?.factsName, other?.jobName !== first?.jobName];
  };
  expect(differs({})).toEqual([false, false]);
  expect(differs({ uri: "hf://org/repo@v2" })).toEqual([true, true]);
  expect(differs({ cache: { claimName: "other" } })).toEqual([true, true]);
  expect(differs({ secretRef: { name: "hf", key: "other" } })).toEqual([false, true]);
  const env = [{ name: "HF_ENDPOINT", value: "https://mirror.example" }];
  expect(differs({}, { podTemplate: { spec: { containers: [{ name: "instance", env }] } } })).toEqual([false, true]);
  expect(differs({}, { contextTokens: 512, podTemplate: { metadata: { labels: { a: "b" } } } })).toEqual([
    false,
    false,
  ]);
});

test("the loader goes where instances may go and has their environment, but not their containers", () => {
  const env = [{ name: "HTTPS_PROXY", value: "http://proxy.example:3128" }];
  const podTemplate = {
    spec: {
      nodeSelector: { zone: "a" },
      imagePullSecrets: [{ name: "pull" }],
      hostNetwork: true,
      containers: [
        { name: "instance", env, resources: { limits: { "nvidia.com/gpu": 2 } } },
        { name: "sidecar", image: "sidecar" },
      ],
    },
  };
  const [job] = jobsOf({ podTemplate });
  expect(podOf(job)).toMatchObject({ nodeSelector: { zone: "a" }, imagePullSecrets: [{ name: "pull" }] });
  expect(podOf(job)?.hostNetwork).toBeUndefined();
  expect(podOf(job)?.containers.map(({ name }) => name)).toEqual(["loader"]);
  expect(containerOf(job)?.env).toContainEqual(env[0]);
  expect(containerOf(job)?.resources?.limits).toEqual({ memory: "1Gi" });
});

test("a sha256 is checked where the file is loaded, and a `$` of a URI is taken as it stands", () => {
  const model = { ...MODEL, uri: "https://host/$(HOME).gguf", sha256: "AB".repeat(32) };
  expect(containerOf(jobsOf({ backend: "llama-cpp", model })[0])?.args).toEqual([
    "load",
    "https://host/$$(HOME).gguf",
    "--cache-dir",
    "/var/lib/llmpool/cache",
    "--facts",
    "/dev/termination-log",
    "--sha256",
    "ab".repeat(32),
  ]);
});
