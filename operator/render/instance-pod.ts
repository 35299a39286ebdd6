import { ANNOTATIONS, CONTAINERS, DEFAULT_VARIANT } from "../../src/api/names.ts";
import { instanceConfig } from "../../src/core/plan/instance-config.ts";
import { type ProcessSpec, processSpec } from "../../src/core/plan/process-spec.ts";
import type { InstancePlan } from "../../src/core/plan/types.ts";
import { processEnv } from "../../src/core/process-env.ts";
import { instanceVolumes, modelPathOf } from "./instance-volumes.ts";
import { objectLabels, podLabels } from "./names.ts";
import {
  CONTAINER_SECURITY,
  type Container,
  GPU_TOLERATIONS,
  GRACE_SECONDS,
  httpProbe,
  literal,
  PATHS,
  POD_SECURITY,
  type PodSpec,
  type PodTemplate,
  spread,
  withPodTemplate,
} from "./pod.ts";
import { resourcesOf } from "./quantity.ts";
import type { RenderSettings } from "./settings.ts";
import type { RenderedVariant } from "./variant.ts";

/** Ordinal of a pod in its StatefulSet: a label that Kubernetes puts on it. */
const POD_INDEX_LABEL = "apps.kubernetes.io/pod-index";
const POD_INDEX = "LLMPOOL_POD_INDEX";
/** A supervisor of slot k answers probes on this port + k. */
export const SUPERVISOR_PORT = 8200;
/** What a supervisor itself takes, beside its instances. */
const SUPERVISOR_BYTES = 128 * 2 ** 20;
const CLAIM = "gpu";

/** The pods of one variant: all alike but for their ordinal, which the kubelet puts in. */
export function instancePod(variant: RenderedVariant, settings: RenderSettings): PodTemplate {
  const { pool, plan, packed, model, podRevision, podTemplate } = variant;
  const claimed = plan.gpu?.resourceClaimTemplateName;
  const labels = { ...objectLabels(pool), ...podLabels(pool, "instance", plan.name) };
  const first = packed ? packedContainer(variant, settings) : exclusiveContainer(variant, settings);
  const template = withPodTemplate(
    {
      metadata: { labels, annotations: { [ANNOTATIONS.revision]: podRevision } },
      spec: {
        automountServiceAccountToken: false,
        enableServiceLinks: false,
        terminationGracePeriodSeconds: model.drainSeconds + GRACE_SECONDS,
        securityContext: POD_SECURITY,
        ...placement(variant),
        containers: [first],
        volumes: instanceVolumes(variant).map(({ volume }) => volume),
        ...(claimed !== undefined && { resourceClaims: [{ name: CLAIM, resourceClaimTemplateName: claimed }] }),
      },
    },
    podTemplate,
  );
  return packed && claimed !== undefined ? withSlots(template, plan.gpu?.instancesPerPod ?? 1) : template;
}

/** The processes of one pod, as a supervisor in it is told. */
export function packedSpecs(
  variant: RenderedVariant,
  settings: RenderSettings,
  ordinal: number,
  slot?: number,
): ProcessSpec[] {
  return variant.plan.instances
    .filter((instance) => instance.ordinal === ordinal && (slot === undefined || instance.slot === slot))
    .map((instance) => processSpec(instance, configOf(variant, instance, settings)));
}

function configOf(variant: RenderedVariant, instance: InstancePlan, settings: RenderSettings) {
  return instanceConfig(variant.pool, variant.plan.modelName, instance, {
    host: "0.0.0.0",
    port: instance.port,
    metricsPort: instance.metricsPort,
    tokenFile: `${PATHS.token}/token`,
    cacheDir: PATHS.cache,
    stateDir: variant.packed ? `${PATHS.state}/${instance.id}` : PATHS.state,
    modelPath: modelPathOf(variant, instance, settings),
    drainSeconds: instance.drainSeconds,
  });
}

/** One instance. Its configuration is part of the pod, so that a container that starts again is what it was before. */
function exclusiveContainer(variant: RenderedVariant, settings: RenderSettings): Container {
  const { plan, model } = variant;
  const config = configOf(variant, model, settings);
  const index = `$(${POD_INDEX})`;
  const id = plan.name === DEFAULT_VARIANT ? index : `${plan.name}-${index}`;
  // The one place that the kubelet fills in; everything else is taken as it stands.
  const text = literal(JSON.stringify({ ...config, id: "\0" })).replace(JSON.stringify("\0"), () => JSON.stringify(id));
  return {
    ...common(variant, settings),
    args: ["runtime"],
    env: env(variant, { LLMPOOL_INSTANCE: text, ...processEnv(model.sessions) }),
    ports: [
      { name: "http", containerPort: model.port },
      { name: "metrics", containerPort: model.metricsPort },
    ],
    livenessProbe: httpProbe("/healthz", "http", 10, 6),
    readinessProbe: httpProbe("/readyz", "http", 1, 3),
    resources: { ...resourcesOf(variant.resources, 1, cards(variant)), ...claims(variant) },
  };
}

/** A supervisor of all instances of the pod, or of one of them where each has a container. It is well as long as it answers. */
function packedContainer(variant: RenderedVariant, settings: RenderSettings): Container {
  const { plan } = variant;
  const slots = plan.gpu?.instancesPerPod ?? 1;
  const own = plan.gpu?.resourceClaimTemplateName === undefined ? slots : 1;
  const { limits, ...resources } = resourcesOf(variant.resources, own, cards(variant));
  if (limits?.memory !== undefined && variant.model.memoryLimitBytes !== undefined)
    limits.memory = String(variant.model.memoryLimitBytes * own + SUPERVISOR_BYTES);
  return {
    ...common(variant, settings),
    // An image of Python has another entrypoint, for instances that are alone in their pods.
    command: ["llmpool"],
    args: ["supervise", "--port", String(SUPERVISOR_PORT), `${PATHS.instances}/$(${POD_INDEX}).json`],
    env: env(variant, {}),
    ports: [...slotPorts(own), { name: "supervisor", containerPort: SUPERVISOR_PORT }],
    livenessProbe: httpProbe("/healthz", "supervisor", 10, 6),
    readinessProbe: httpProbe("/healthz", "supervisor", 1, 3),
    resources: { ...(limits && { limits }), ...resources, ...claims(variant) },
  };
}

/** A container for each slot, all on the pod's one claim; the first is the others' pattern. */
function withSlots(template: PodTemplate, slots: number): PodTemplate {
  const spec = template.spec as PodSpec;
  // The user's part may have made anything of it.
  if (!Array.isArray(spec?.containers)) return template;
  const containers = spec.containers.flatMap((container) =>
    container?.name === CONTAINERS.instance
      ? Array.from({ length: slots }, (_, slot) => inSlot(container, slot))
      : [container],
  );
  return { ...template, spec: { ...spec, containers } };
}

function inSlot(container: Container, slot: number): Container {
  const port = SUPERVISOR_PORT + slot;
  const supervisor = slot === 0 ? "supervisor" : `supervisor-${slot}`;
  const probe = <P extends Container["livenessProbe"]>(p: P) =>
    p?.httpGet?.port === "supervisor" ? { ...p, httpGet: { ...p.httpGet, port: supervisor } } : p;
  return {
    ...container,
    name: slot === 0 ? container.name : `${container.name}-${slot}`,
    args: ["supervise", "--port", String(port), `${PATHS.instances}/$(${POD_INDEX})-${slot}.json`],
    ports: [...slotPorts(1, slot), { name: supervisor, containerPort: port }],
    ...(container.livenessProbe && { livenessProbe: probe(container.livenessProbe) }),
    ...(container.readinessProbe && { readinessProbe: probe(container.readinessProbe) }),
  };
}

function slotPorts(count: number, from = 0) {
  return Array.from({ length: count }, (_, k) => from + k).flatMap((slot) => [
    { name: slot === 0 ? "http" : `http-${slot}`, containerPort: 8000 + slot },
    { name: slot === 0 ? "metrics" : `metrics-${slot}`, containerPort: 8100 + slot },
  ]);
}

function common(variant: RenderedVariant, { images }: RenderSettings) {
  return {
    name: CONTAINERS.instance,
    image: variant.image ?? images[variant.model.backend],
    // The last words of a process that could not start, for the pool's conditions.
    terminationMessagePolicy: "FallbackToLogsOnError",
    securityContext: CONTAINER_SECURITY,
    volumeMounts: instanceVolumes(variant).map(({ mount }) => mount),
  };
}

function env({ model, load }: RenderedVariant, values: Record<string, string>): NonNullable<Container["env"]> {
  // What a loader fetched needs no token here.
  const modelSecret = load ? undefined : model.modelSecret;
  return [
    // First: what comes later refers to it.
    { name: POD_INDEX, valueFrom: { fieldRef: { fieldPath: `metadata.labels['${POD_INDEX_LABEL}']` } } },
    { name: "HOME", value: "/tmp" },
    ...(modelSecret
      ? [{ name: "HF_TOKEN", valueFrom: { secretKeyRef: { name: modelSecret.name, key: modelSecret.key } } }]
      : []),
    ...Object.entries(values)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, value]) => ({ name, value })),
  ];
}

/** The cards of one pod as an extended resource. */
function cards({ plan: { gpu } }: RenderedVariant): Record<string, string> {
  return gpu?.resource === undefined ? {} : { [gpu.resource]: String(gpu.count) };
}

function claims({ plan: { gpu } }: RenderedVariant) {
  return gpu?.resourceClaimTemplateName === undefined ? {} : { claims: [{ name: CLAIM }] };
}

function placement({ pool, plan }: RenderedVariant): Partial<PodSpec> {
  const { gpu } = plan;
  return {
    topologySpreadConstraints: spread(podLabels(pool, "instance", plan.name)),
    ...(gpu && { tolerations: GPU_TOLERATIONS }),
    ...(gpu?.runtimeClassName !== undefined && { runtimeClassName: gpu.runtimeClassName }),
  };
}
