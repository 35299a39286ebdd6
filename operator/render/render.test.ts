import type {
  V1Deployment,
  V1NetworkPolicy,
  V1PersistentVolumeClaim,
  V1Role,
  V1Service,
  V1StatefulSet,
} from "@kubernetes/client-node";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { InstanceConfig } from "../../src/api/instance.ts";
import { planPool } from "../../src/core/plan/plan.ts";
import type { KubeObject, ObjectOf } from "../../src/kube/object.ts";
import { pool as makePool } from "../../test/support/pool.ts";
import { renderPool } from "./render.ts";
import { defaultImages, type RenderSettings } from "./settings.ts";

const SETTINGS: RenderSettings = {
  images: defaultImages("1.2.3", "registry.example"),
  operatorNamespace: "llmpool-system",
  podMonitors: false,
};
const UID = "0b5e7c1e-0000-4000-8000-000000000001";

type Set = ObjectOf<V1StatefulSet>;
type Deployment = ObjectOf<V1Deployment>;

function render(spec: object, settings: Partial<RenderSettings> = {}): KubeObject[] {
  const pool = makePool({ backend: "stub", ...spec });
  Object.assign(pool.metadata, { namespace: "team", uid: UID });
  return renderPool(pool, planPool(pool), { ...SETTINGS, ...settings });
}

function get<T extends KubeObject>(objects: KubeObject[], kind: string, name: string): T {
  const found = objects.find((o) => o.kind === kind && o.metadata.name === name);
  if (!found)
    throw new Error(`no ${kind} ${name} among ${objects.map((o) => `${o.kind}/${o.metadata.name}`).join(" ")}`);
  return found as T;
}

const containerOf = (object: Set | Deployment, at = 0) => {
  const found = object.spec?.template.spec?.containers[at];
  if (!found) throw new Error("no container");
  return found;
};
const podOf = (object: Set | Deployment) => object.spec?.template;
const envOf = (object: Set) => Object.fromEntries((containerOf(object).env ?? []).map((e) => [e.name, e.value]));

/** What the kubelet makes of a value, with these variables. */
function expanded(text: string, vars: Record<string, string>): string {
  return text.replace(/\$\$|\$\(([^)]+)\)/g, (all, name?: string) => (all === "$$" ? "$" : (vars[name ?? ""] ?? all)));
}

function configOf(set: Set, ordinal: number): InstanceConfig {
  return InstanceConfig.parse(
    JSON.parse(expanded(envOf(set).LLMPOOL_INSTANCE ?? "", { LLMPOOL_POD_INDEX: String(ordinal) })),
  );
}

const GPU = { backend: "hf-cuda", model: { uri: "hf://org/repo" } };

describe("a pool", () => {
  const objects = render({ variants: [{ name: "code", instances: 2 }] });

  test("is these objects, each owned by it, labelled, in its namespace", () => {
    expect(objects.map((o) => `${o.kind} ${o.metadata.name}`)).toEqual([
      "ServiceAccount apex",
      "Role apex",
      "RoleBinding apex",
      "Service apex",
      "Service apex-instances",
      "PersistentVolumeClaim apex-router",
      "NetworkPolicy apex",
      "StatefulSet apex",
      "NetworkPolicy apex-code",
      "StatefulSet apex-code",
      "Deployment apex",
      "PodDisruptionBudget apex-instances",
      "PodDisruptionBudget apex-router",
    ]);
    for (const { metadata } of objects) {
      expect(metadata.namespace).toBe("team");
      expect(metadata.ownerReferences).toEqual([
        {
          apiVersion: "llmpool.dev/v1alpha1",
          kind: "LLMPool",
          name: "apex",
          uid: UID,
          controller: true,
          blockOwnerDeletion: true,
        },
      ]);
      expect(metadata.labels).toMatchObject({
        "llmpool.dev/pool": "apex",
        "app.kubernetes.io/managed-by": "llmpool-operator",
        "app.kubernetes.io/name": "llmpool",
      });
    }
  });

  test("has a StatefulSet for each variant, whose pods only the operator replaces", () => {
    const set = get<Set>(objects, "StatefulSet", "apex-code");
    expect(set.spec).toMatchObject({
      replicas: 2,
      serviceName: "apex-instances",
      podManagementPolicy: "Parallel",
      updateStrategy: { type: "OnDelete" },
    });
    expect(podOf(set)?.metadata?.labels).toMatchObject(set.spec?.selector.matchLabels ?? { none: "" });
  });

  test("has a Service that tells the address of every pod, also of one that is not ready", () => {
    const service = get<ObjectOf<V1Service>>(objects, "Service", "apex-instances");
    expect(service.spec).toMatchObject({ clusterIP: "None", publishNotReadyAddresses: true });
    for (const name of ["apex", "apex-code"])
      expect(podOf(get<Set>(objects, "StatefulSet", name))?.metadata?.labels).toMatchObject(
        service.spec?.selector ?? { none: "" },
      );
  });

  test("has the status' selector on the default variant's pods", () => {
    expect(podOf(get<Set>(objects, "StatefulSet", "apex"))?.metadata?.labels).toMatchObject({
      "llmpool.dev/pool": "apex",
      "llmpool.dev/variant": "default",
      "app.kubernetes.io/component": "instance",
    });
  });

  test("has PodMonitors where the cluster knows them", () => {
    const kinds = render({}, { podMonitors: true }).filter((o) => o.kind === "PodMonitor");
    expect(kinds.map((o) => o.metadata.name)).toEqual(["apex-instances", "apex-router"]);
  });
});

describe("every pod", () => {
  const objects = render({ ...GPU, gpu: { mode: "Packed", instancesPerPod: 2, resourceClaimTemplateName: "card" } });
  const pods = objects.flatMap((o) => (o.kind === "StatefulSet" || o.kind === "Deployment" ? [podOf(o as Set)] : []));

  test("meets the restricted standard with a read-only root", () => {
    expect(pods).toHaveLength(2);
    for (const pod of pods) {
      expect(pod?.spec?.securityContext).toMatchObject({
        runAsNonRoot: true,
        seccompProfile: { type: "RuntimeDefault" },
      });
      for (const container of pod?.spec?.containers ?? []) {
        expect(container.securityContext).toEqual({
          allowPrivilegeEscalation: false,
          capabilities: { drop: ["ALL"] },
          readOnlyRootFilesystem: true,
        });
      }
    }
  });

  test("mounts only volumes that it has, and each once", () => {
    for (const pod of pods) {
      const volumes = (pod?.spec?.volumes ?? []).map((v) => v.name);
      for (const { volumeMounts = [] } of pod?.spec?.containers ?? [])
        expect(volumeMounts.map((m) => m.name).sort()).toEqual([...volumes].sort());
    }
  });
});

describe("an instance's pod", () => {
  test("tells each ordinal its own id and the pool's settings", () => {
    const set = get<Set>(
      render({ warmupPrompt: 'a $(HOME) $$ "q"', contextTokens: 99, drainSeconds: 7, variants: [{ name: "code" }] }),
      "StatefulSet",
      "apex-code",
    );
    expect(configOf(set, 3)).toMatchObject({
      pool: "apex",
      id: "code-3",
      variant: "code",
      host: "0.0.0.0",
      port: 8000,
      metricsPort: 8001,
      contextTokens: 99,
      drainSeconds: 7,
      warmupPrompt: 'a $(HOME) $$ "q"',
    });
    expect(podOf(set)?.spec?.terminationGracePeriodSeconds).toBe(17);
  });

  test("knows its ordinal before it is used", () => {
    const [first] = containerOf(get<Set>(render({}), "StatefulSet", "apex")).env ?? [];
    expect(first).toEqual({
      name: "LLMPOOL_POD_INDEX",
      valueFrom: { fieldRef: { fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']" } },
    });
  });

  test("has the environment of a local process", () => {
    expect(envOf(get<Set>(render({ sessionsPerInstance: 9 }), "StatefulSet", "apex"))).toMatchObject({
      MALLOC_ARENA_MAX: "1",
      MALLOC_TRIM_THRESHOLD_: "131072",
      NODE_OPTIONS: "--max-semi-space-size=4",
      UV_THREADPOOL_SIZE: "13",
    });
  });

  test("so has the router's pod", () => {
    const deployment = get<Deployment>(render({}), "Deployment", "apex");
    expect(containerOf(deployment).env).toContainEqual({ name: "NODE_OPTIONS", value: "--max-semi-space-size=16" });
  });

  test("is ready after its warm-up, and gets no token of the API server", () => {
    const set = get<Set>(render({}), "StatefulSet", "apex");
    expect(containerOf(set).readinessProbe?.httpGet).toEqual({ path: "/readyz", port: "http" });
    expect(containerOf(set).livenessProbe?.httpGet).toEqual({ path: "/healthz", port: "http" });
    expect(podOf(set)?.spec?.automountServiceAccountToken).toBe(false);
  });

  test("mounts the claim that its model is on", () => {
    const set = get<Set>(
      render({ backend: "llama-cpp", model: { uri: "pvc://models/a/b.gguf" } }),
      "StatefulSet",
      "apex",
    );
    expect(configOf(set, 0).modelPath).toBe("/var/lib/llmpool/claims/models/a/b.gguf");
    expect(podOf(set)?.spec?.volumes).toContainEqual({
      name: "model",
      persistentVolumeClaim: { claimName: "models", readOnly: true },
    });
  });

  test("gets the hub's token as the variable that the runtime reads", () => {
    const model = { uri: "hf://org/repo/m.gguf", secretRef: { name: "hf", key: "t" } };
    const objects = render({ backend: "llama-cpp", model });
    expect(containerOf(get<Set>(objects, "StatefulSet", "apex")).env).toContainEqual({
      name: "HF_TOKEN",
      valueFrom: { secretKeyRef: { name: "hf", key: "t" } },
    });
  });

  test("is what the user makes of it, but for what it is found by", () => {
    const podTemplate = {
      metadata: { labels: { team: "x", "llmpool.dev/pool": "stolen" } },
      spec: {
        nodeSelector: { disk: "ssd" },
        containers: [
          { name: "instance", env: [{ name: "A", value: "1" }] },
          { name: "side", image: "s" },
        ],
      },
    };
    const set = get<Set>(render({ podTemplate, image: "mine:1" }), "StatefulSet", "apex");
    expect(podOf(set)?.metadata?.labels).toMatchObject({ team: "x", "llmpool.dev/pool": "apex" });
    expect(podOf(set)?.spec?.nodeSelector).toEqual({ disk: "ssd" });
    expect(podOf(set)?.spec?.containers.map((c) => [c.name, c.image])).toEqual([
      ["instance", "mine:1"],
      ["side", "s"],
    ]);
    expect(envOf(set).A).toBe("1");
    expect(configOf(set, 0).id).toBe("0");
  });

  test("exists also for a variant that is scaled to 0", () => {
    const set = get<Set>(render({ instances: 0, contextTokens: 77 }), "StatefulSet", "apex");
    expect(set.spec?.replicas).toBe(0);
    expect(configOf(set, 0).contextTokens).toBe(77);
  });
});

describe("cards", () => {
  test("Exclusive: each pod has its own", () => {
    const set = get<Set>(
      render({ ...GPU, gpu: { count: 2, runtimeClassName: "nvidia" }, resources: { limits: { memory: "12Gi" } } }),
      "StatefulSet",
      "apex",
    );
    expect(containerOf(set).resources).toEqual({ limits: { memory: "12Gi", "nvidia.com/gpu": "2" } });
    expect(podOf(set)?.spec).toMatchObject({
      runtimeClassName: "nvidia",
      tolerations: [{ key: "nvidia.com/gpu", operator: "Exists", effect: "NoSchedule" }],
    });
    expect(podOf(set)?.spec?.volumes).toContainEqual({ name: "shm", emptyDir: { medium: "Memory", sizeLimit: "1Gi" } });
  });

  test("MIG, MPS and time-slicing are other resource names", () => {
    const set = get<Set>(render({ ...GPU, gpu: { resource: "nvidia.com/mig-1g.10gb" } }), "StatefulSet", "apex");
    expect(containerOf(set).resources?.limits).toEqual({ "nvidia.com/mig-1g.10gb": "1" });
  });

  test("Packed: one container on one card, its supervisor told in a ConfigMap", () => {
    const objects = render({
      ...GPU,
      instances: 7,
      gpu: { mode: "Packed", instancesPerPod: 5 },
      resources: { limits: { memory: "1Gi", cpu: "500m" }, requests: { memory: "512Mi" } },
    });
    const set = get<Set>(objects, "StatefulSet", "apex");
    expect(set.spec?.replicas).toBe(2);
    expect(containerOf(set).command).toEqual(["llmpool"]);
    expect(containerOf(set).args).toEqual([
      "supervise",
      "--port",
      "8200",
      "/etc/llmpool/instances/$(LLMPOOL_POD_INDEX).json",
    ]);
    expect(containerOf(set).resources).toEqual({
      limits: { cpu: "2500m", memory: String(5 * 2 ** 30 + 128 * 2 ** 20), "nvidia.com/gpu": "1" },
      requests: { memory: String(2.5 * 2 ** 30) },
    });
    expect(containerOf(set).readinessProbe?.httpGet).toEqual({ path: "/healthz", port: "supervisor" });
    const { data = {} } = get<KubeObject & { data?: Record<string, string> }>(objects, "ConfigMap", "apex");
    expect(Object.keys(data)).toEqual(["0.json", "1.json"]);
    const specs = JSON.parse(data["1.json"] ?? "") as { id: string; memoryLimitBytes: number; config: unknown }[];
    expect(
      specs.map((s) => [
        s.id,
        s.memoryLimitBytes,
        InstanceConfig.parse(s.config).port,
        InstanceConfig.parse(s.config).metricsPort,
      ]),
    ).toEqual([
      ["5", 2 ** 30, 8000, 8100],
      ["6", 2 ** 30, 8001, 8101],
    ]);
  });

  test("Packed on a claim: a container for each instance, all on the pod's claim", () => {
    const objects = render({
      ...GPU,
      instances: 3,
      gpu: { mode: "Packed", instancesPerPod: 2, resourceClaimTemplateName: "card" },
      resources: { limits: { memory: "1Gi" } },
    });
    const set = get<Set>(objects, "StatefulSet", "apex");
    expect(podOf(set)?.spec?.resourceClaims).toEqual([{ name: "gpu", resourceClaimTemplateName: "card" }]);
    const containers = podOf(set)?.spec?.containers ?? [];
    expect(containers.map((c) => [c.name, c.args?.at(-1), c.resources?.claims])).toEqual([
      ["instance", "/etc/llmpool/instances/$(LLMPOOL_POD_INDEX)-0.json", [{ name: "gpu" }]],
      ["instance-1", "/etc/llmpool/instances/$(LLMPOOL_POD_INDEX)-1.json", [{ name: "gpu" }]],
    ]);
    for (const c of containers) expect(c.resources?.limits?.memory).toBe(String(2 ** 30 + 128 * 2 ** 20));
    const ports = containers.flatMap((c) => c.ports ?? []);
    expect(new Set(ports.map((p) => p.containerPort)).size).toBe(ports.length);
    expect(new Set(ports.map((p) => p.name)).size).toBe(ports.length);
    for (const c of containers) expect(c.ports?.map((p) => p.name)).toContain(c.readinessProbe?.httpGet?.port);
    const { data = {} } = get<KubeObject & { data?: Record<string, string> }>(objects, "ConfigMap", "apex");
    // The last pod has a container to spare.
    expect(
      Object.entries(data).map(([key, text]) => [key, (JSON.parse(text) as { id: string }[]).map((s) => s.id)]),
    ).toEqual([
      ["0-0.json", ["0"]],
      ["0-1.json", ["1"]],
      ["1-0.json", ["2"]],
      ["1-1.json", []],
    ]);
  });

  test("the policy opens what serves to the router and the operator, and metrics to all", () => {
    const policy = (spec: object) =>
      get<ObjectOf<V1NetworkPolicy>>(render(spec), "NetworkPolicy", "apex").spec?.ingress ?? [];
    const [calls, metrics] = policy({});
    expect(calls?.from).toEqual([
      { podSelector: { matchLabels: { "llmpool.dev/pool": "apex", "app.kubernetes.io/component": "router" } } },
      {
        namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": "llmpool-system" } },
        podSelector: {
          matchLabels: { "app.kubernetes.io/name": "llmpool", "app.kubernetes.io/component": "operator" },
        },
      },
    ]);
    expect([calls?.ports, metrics]).toEqual([
      [{ protocol: "TCP", port: 8000 }],
      { ports: [{ protocol: "TCP", port: 8001 }] },
    ]);
    const packed = policy({ ...GPU, gpu: { mode: "Packed", instancesPerPod: 3 } });
    expect(packed.map((rule) => rule.ports)).toEqual([
      [{ protocol: "TCP", port: 8000, endPort: 8002 }],
      [{ protocol: "TCP", port: 8200, endPort: 8202 }],
      [{ protocol: "TCP", port: 8100, endPort: 8102 }],
    ]);
  });
});

describe("the router", () => {
  const deployment = (spec: object) => get<Deployment>(render(spec), "Deployment", "apex");

  test("alone keeps its store on a claim that one pod may have", () => {
    const objects = render({ store: { storage: "5Gi" } });
    expect(get<Deployment>(objects, "Deployment", "apex").spec?.strategy).toEqual({ type: "Recreate" });
    expect(get<ObjectOf<V1PersistentVolumeClaim>>(objects, "PersistentVolumeClaim", "apex-router").spec).toEqual({
      accessModes: ["ReadWriteOncePod"],
      resources: { requests: { storage: "5Gi" } },
    });
  });

  test("is reached whatever becomes of its instances", () => {
    const { readinessProbe, livenessProbe } = containerOf(deployment({}));
    for (const probe of [readinessProbe, livenessProbe])
      expect(probe?.httpGet).toEqual({ path: "/healthz", port: "http" });
  });

  test("may keep it in its pod", () => {
    const objects = render({ store: { ephemeral: true } });
    expect(objects.some((o) => o.kind === "PersistentVolumeClaim")).toBe(false);
    expect(podOf(get<Deployment>(objects, "Deployment", "apex"))?.spec?.volumes).toContainEqual({
      name: "store",
      emptyDir: {},
    });
  });

  test("several use Redis, and are replaced one after another", () => {
    const several = deployment({
      router: { replicas: 3, auth: { mode: "ApiKey", secretName: "keys" } },
      store: { redisSecretRef: { name: "redis", key: "url" } },
    });
    expect(several.spec).toMatchObject({
      replicas: 3,
      strategy: { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 0 } },
    });
    expect(containerOf(several).args?.join(" ")).toContain(
      "--secret keys=/etc/llmpool/secrets/keys --secret redis=/etc/llmpool/secrets/redis",
    );
  });

  test.each([
    { roles: [{ name: "x", systemPrompt: "p" }] },
    { budgets: { episodeTokens: 9 } },
    { episodes: { timeoutSeconds: 9 } },
    { router: { queuePerInstance: 9 } },
    { instances: 9 },
    { contextTokens: 99 },
  ])("is not restarted by %o", (change) => {
    expect(podOf(deployment(change))).toEqual(podOf(deployment({})));
  });

  test("may read its own pool and addresses, and change nothing", () => {
    const { rules = [] } = get<ObjectOf<V1Role>>(render({}), "Role", "apex");
    expect(rules.map((r) => [r.resources?.[0], r.resourceNames])).toEqual([
      ["llmpools", ["apex"]],
      ["endpointslices", undefined],
    ]);
    expect(new Set(rules.flatMap((r) => r.verbs))).toEqual(new Set(["get", "list", "watch"]));
  });
});

describe("a pod's revision", () => {
  const revision = (spec: object, settings?: Partial<RenderSettings>) =>
    podOf(get<Set>(render(spec, settings), "StatefulSet", "apex"))?.metadata?.annotations?.["llmpool.dev/revision"];

  test.each([
    { contextTokens: 99 },
    { image: "other" },
    { podTemplate: { spec: { nodeSelector: { a: "b" } } } },
    { resources: { requests: { memory: "1Gi" } } },
    { gpu: { count: 2 } },
  ])("changes with %o", (change) => {
    expect(revision(change)).not.toBe(revision({}));
  });

  test.each([
    { instances: 9 },
    { drainSeconds: 9 },
    { budgets: { episodeTokens: 9 } },
    { variants: [{ name: "code" }] },
    { instances: 0 },
  ])("does not change with %o", (change) => {
    expect(revision(change)).toBe(revision({}));
  });

  test("does not change with the operator's release", () => {
    expect(revision({}, { images: defaultImages("9.9.9") })).toBe(revision({}));
  });

  test("of a Packed pod does not change with what its supervisor replaces by itself", () => {
    const packed = { ...GPU, gpu: { mode: "Packed", instancesPerPod: 2 } };
    expect(revision({ ...packed, contextTokens: 99 })).toBe(revision(packed));
    expect(revision({ ...packed, gpu: { mode: "Packed", instancesPerPod: 3 } })).not.toBe(revision(packed));
    // A volume is the pod's.
    expect(revision({ ...packed, model: { uri: "pvc://models/m" } })).not.toBe(revision(packed));
  });
});

test("an image of another tag is pulled by the rule of its own", () => {
  const pull = (spec: object) => containerOf(get<Set>(render(spec), "StatefulSet", "apex")).imagePullPolicy;
  expect(["a", "a:latest", "r:5000/a", "a:1", "r:5000/a:1", "a@sha256:0"].map((image) => pull({ image }))).toEqual([
    ...["Always", "Always", "Always", "IfNotPresent", "IfNotPresent", "IfNotPresent"],
  ]);
  const own = { spec: { containers: [{ name: "instance", imagePullPolicy: "Never" }] } };
  expect(pull({ image: "a", podTemplate: own })).toBe("Never");
});

test("a podTemplate of any shape is rendered: what is wrong in it is the API server's to say", () => {
  const term = { nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [null] } } };
  const cached = { uri: "hf://org/repo", cache: { storage: "1Gi" } };
  const claims = { mode: "Packed", instancesPerPod: 2, resourceClaimTemplateName: "card" };
  for (const spec of [
    5,
    null,
    "x",
    { containers: "x" },
    { containers: [null, 5] },
    { containers: null },
    { affinity: term },
  ])
    for (const podTemplate of [{ spec }, { metadata: spec }])
      expect(render({ ...GPU, model: cached, gpu: claims, podTemplate }).length).toBeGreaterThan(0);
});

const specs = fc.record({
  instances: fc.integer({ min: 0, max: 6 }),
  warmupPrompt: fc.string({ minLength: 1, maxLength: 40 }),
  resources: fc.constantFrom({}, { limits: { memory: "1Gi", cpu: 2 } }, { limits: { cpu: 2, memory: "1Gi" } }),
  gpu: fc.constantFrom(
    undefined,
    { mode: "Packed", instancesPerPod: 3 },
    { count: 2 },
    { mode: "Packed", instancesPerPod: 2, resourceClaimTemplateName: "c" },
  ),
  variants: fc.uniqueArray(fc.record({ name: fc.constantFrom("a", "b"), instances: fc.integer({ min: 0, max: 3 }) }), {
    selector: (v) => v.name,
  }),
});

test("the same pool gives the same bytes, in whatever order its keys are; no object twice; what it says reaches the instance unchanged", () => {
  fc.assert(
    fc.property(specs, (spec) => {
      const objects = render(spec);
      expect(JSON.stringify(render(structuredClone(spec)))).toBe(JSON.stringify(objects));
      const turned = Object.fromEntries(Object.entries(spec).reverse());
      expect(JSON.stringify(render(turned))).toBe(JSON.stringify(objects));
      expect(new Set(objects.map((o) => `${o.kind}/${o.metadata.name}`)).size).toBe(objects.length);
      if (spec.gpu?.mode !== "Packed")
        expect(configOf(get<Set>(objects, "StatefulSet", "apex"), 1)).toMatchObject({
          id: "1",
          warmupPrompt: spec.warmupPrompt,
        });
    }),
  );
});
