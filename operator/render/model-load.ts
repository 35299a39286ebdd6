import type { V1ConfigMap, V1Job } from "@kubernetes/client-node";
import type { ModelFacts } from "../../src/api/model-facts.ts";
import { CONTAINERS } from "../../src/api/names.ts";
import { revisionOf } from "../../src/core/plan/revision.ts";
import type { InstancePlan } from "../../src/core/plan/types.ts";
import type { KubeObject, ObjectOf } from "../../src/kube/object.ts";
import { factsName, loaderName, objectLabels, podLabels } from "./names.ts";
import {
  CONTAINER_SECURITY,
  type Container,
  GPU_TOLERATIONS,
  literal,
  PATHS,
  POD_SECURITY,
  type PodTemplate,
  specIn,
  withPodTemplate,
} from "./pod.ts";
import type { RenderSettings } from "./settings.ts";

/** One model on one volume: what is to be loaded, and how. */
export interface ModelLoad {
  /** ConfigMap with the model's facts; named by what the model is and where. */
  factsName: string;
  /** Named by all of this: an edit of the token or of the pods' environment makes another try. */
  jobName: string;
  claimName: string;
  model: NonNullable<InstancePlan["model"]>;
  secret: InstancePlan["modelSecret"];
  /** Its pods may go where cards are. */
  toleratesGpus: boolean;
  /** What of the user's podTemplate holds for it too. */
  patch: object | undefined;
}

/** Where the kubelet takes a container's last words from. */
const TERMINATION_LOG = "/dev/termination-log";
/** The kubelet starts a loader that failed again, ever later up to 5 minutes, for as long as the model is wanted. */
const NEVER_GIVE_UP = 1_000_000;
/** Fields of the user's podTemplate that say where pods may be and how they reach the network. */
const SHARED_FIELDS = [
  "nodeSelector",
  "affinity",
  "tolerations",
  "imagePullSecrets",
  "priorityClassName",
  "schedulerName",
  "hostAliases",
  "dnsConfig",
  "dnsPolicy",
  "volumes",
] as const;

export function modelLoad(
  pool: string,
  { model, modelSecret }: InstancePlan,
  claimName: string,
  toleratesGpus: boolean,
  podTemplate: object | undefined,
): ModelLoad | undefined {
  if (!model) return undefined;
  const { uri, sha256 } = model;
  const content = revisionOf({ uri, sha256, claimName }).slice(0, 10);
  const patch = sharedPatch(podTemplate);
  const revision = revisionOf({ content, modelSecret, toleratesGpus, patch }).slice(0, 10);
  return {
    factsName: factsName(pool, content),
    jobName: loaderName(pool, revision),
    claimName,
    model,
    secret: modelSecret,
    toleratesGpus,
    patch,
  };
}

/** The loads of a pool: variants with one model on one volume share one. */
export function loadsOf(variants: readonly { load: ModelLoad | undefined }[]): ModelLoad[] {
  const loads = new Map<string, ModelLoad>();
  for (const { load } of variants) if (load && !loads.has(load.factsName)) loads.set(load.factsName, load);
  return [...loads.values()];
}

/** A model that is loaded is its facts, one that is not is the Job that loads it. */
export function modelObject(pool: string, load: ModelLoad, settings: RenderSettings): KubeObject {
  const facts = settings.facts?.get(load.factsName);
  return facts ? factsMap(pool, load, facts) : loaderJob(pool, load, settings);
}

function factsMap(pool: string, { factsName }: ModelLoad, facts: ModelFacts): ObjectOf<V1ConfigMap> {
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name: factsName, labels: objectLabels(pool, "loader") },
    data: Object.fromEntries(
      Object.entries(facts).flatMap(([name, value]) => (value === undefined ? [] : [[name, String(value)]])),
    ),
  };
}

function loaderJob(pool: string, load: ModelLoad, settings: RenderSettings): ObjectOf<V1Job> {
  const template: PodTemplate = {
    metadata: { labels: { ...objectLabels(pool), ...podLabels(pool, "loader") } },
    spec: {
      restartPolicy: "OnFailure",
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      securityContext: POD_SECURITY,
      ...(load.toleratesGpus && { tolerations: GPU_TOLERATIONS }),
      containers: [loaderContainer(load, settings)],
      volumes: [
        { name: "cache", persistentVolumeClaim: { claimName: load.claimName } },
        { name: "tmp", emptyDir: {} },
      ],
    },
  };
  return {
    apiVersion: "batch/v1",
    kind: "Job",
    metadata: { name: load.jobName, labels: objectLabels(pool, "loader") },
    spec: { backoffLimit: NEVER_GIVE_UP, template: withPodTemplate(template, load.patch) },
  };
}

function loaderContainer({ model, secret }: ModelLoad, { images }: RenderSettings): Container {
  return {
    name: CONTAINERS.loader,
    image: images.router,
    args: [
      "load",
      literal(model.uri),
      ...["--cache-dir", PATHS.cache],
      ...["--facts", TERMINATION_LOG],
      ...(model.sha256 === "" ? [] : ["--sha256", model.sha256]),
    ],
    env: [
      { name: "HOME", value: "/tmp" },
      ...(secret ? [{ name: "HF_TOKEN", valueFrom: { secretKeyRef: { name: secret.name, key: secret.key } } }] : []),
    ],
    resources: { requests: { cpu: "100m", memory: "128Mi" }, limits: { memory: "1Gi" } },
    // Facts when it succeeds, the reason in the log's last line when it fails.
    terminationMessagePath: TERMINATION_LOG,
    terminationMessagePolicy: "FallbackToLogsOnError",
    securityContext: CONTAINER_SECURITY,
    volumeMounts: [
      { name: "cache", mountPath: PATHS.cache },
      { name: "tmp", mountPath: "/tmp" },
    ],
  };
}

/** Of the user's patch of instance pods: placement, network, and the environment and files of the container `instance`. */
function sharedPatch(podTemplate: object | undefined): object | undefined {
  const spec = specIn(podTemplate);
  const shared = Object.fromEntries(SHARED_FIELDS.flatMap((name) => (name in spec ? [[name, spec[name]]] : [])));
  const { env, envFrom, volumeMounts } = spec.containers?.find(({ name }) => name === CONTAINERS.instance) ?? {};
  const container = {
    ...(env && { env }),
    ...(envFrom && { envFrom }),
    ...(volumeMounts && { volumeMounts }),
  };
  const containers =
    Object.keys(container).length > 0 ? { containers: [{ name: CONTAINERS.loader, ...container }] } : {};
  const patch = { ...shared, ...containers };
  return Object.keys(patch).length > 0 ? { spec: patch } : undefined;
}
