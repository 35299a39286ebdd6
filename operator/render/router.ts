import type { V1Deployment, V1PersistentVolumeClaim, V1Service } from "@kubernetes/client-node";
import type { LLMPool } from "../../src/api/llmpool.ts";
import { ANNOTATIONS, CONTAINERS } from "../../src/api/names.ts";
import { revisionOf } from "../../src/core/plan/revision.ts";
import type { PoolPlan, RouterPlan } from "../../src/core/plan/types.ts";
import { ROUTER_ENV } from "../../src/core/process-env.ts";
import type { ObjectOf } from "../../src/kube/object.ts";
import { namesOf, objectLabels, podLabels } from "./names.ts";
import {
  CONTAINER_SECURITY,
  GRACE_SECONDS,
  httpProbe,
  PATHS,
  POD_SECURITY,
  type PodTemplate,
  spread,
  withPodTemplate,
} from "./pod.ts";
import type { RenderSettings } from "./settings.ts";

export const ROUTER_PORT = 8080;

/**
 * The router's pods. Roles, budgets, episodes and queue lengths are not in them: the router reads its pool itself, and an edit of those restarts
 * nothing.
 */
export function routerDeployment(pool: LLMPool, plan: PoolPlan, settings: RenderSettings): ObjectOf<V1Deployment> {
  const { replicas, store } = plan.router;
  const name = plan.pool;
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: {
      name: namesOf(name).router,
      labels: objectLabels(name, "router"),
      annotations: { [ANNOTATIONS.revision]: routerRevision(pool, plan) },
    },
    spec: {
      replicas,
      revisionHistoryLimit: 2,
      selector: { matchLabels: podLabels(name, "router") },
      // One state directory has one process: the old one ends before the new one starts.
      strategy:
        store.kind === "embedded"
          ? { type: "Recreate" }
          : { type: "RollingUpdate", rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } },
      template: withPodTemplate(routerPod(plan, settings), pool.spec.router.podTemplate),
    },
  };
}

/** Hash of what the pool asks of the router's pods, without what a release of the operator brings. */
export function routerRevision({ spec }: LLMPool, { router: { auth, store, drainSeconds } }: PoolPlan): string {
  return revisionOf({ auth, store, drainSeconds, podTemplate: spec.router.podTemplate });
}

function routerPod({ pool, router }: PoolPlan, settings: RenderSettings): PodTemplate {
  const names = namesOf(pool);
  const secrets = secretsOf(router);
  return {
    metadata: { labels: { ...objectLabels(pool), ...podLabels(pool, "router") } },
    spec: {
      serviceAccountName: names.router,
      enableServiceLinks: false,
      terminationGracePeriodSeconds: router.drainSeconds + GRACE_SECONDS,
      securityContext: POD_SECURITY,
      topologySpreadConstraints: spread(podLabels(pool, "router")),
      containers: [
        {
          name: CONTAINERS.router,
          image: settings.images.router,
          args: [
            "router",
            ...["--pool", pool],
            ...["--host", "0.0.0.0", "--port", String(ROUTER_PORT)],
            ...["--token-file", `${PATHS.token}/token`],
            ...["--state", PATHS.store],
            ...secrets.flatMap((secret) => ["--secret", `${secret}=${PATHS.secrets}/${secret}`]),
          ],
          env: Object.entries({ HOME: "/tmp", ...ROUTER_ENV }).map(([name, value]) => ({ name, value })),
          ports: [{ name: "http", containerPort: ROUTER_PORT }],
          livenessProbe: httpProbe("/healthz", "http", 10, 6),
          // Not /readyz, which asks for every instance: one that is missing must not cut off the others, nor those who queue for it.
          readinessProbe: httpProbe("/healthz", "http", 1, 3),
          resources: { requests: { cpu: "100m", memory: "128Mi" }, limits: { memory: "1Gi" } },
          terminationMessagePolicy: "FallbackToLogsOnError",
          securityContext: CONTAINER_SECURITY,
          volumeMounts: [
            { name: "token", mountPath: PATHS.token, readOnly: true },
            { name: "tmp", mountPath: "/tmp" },
            ...(router.store.kind === "embedded" ? [{ name: "store", mountPath: PATHS.store }] : []),
            ...secrets.map((secret, at) => ({
              name: `secret-${at}`,
              mountPath: `${PATHS.secrets}/${secret}`,
              readOnly: true,
            })),
          ],
        },
      ],
      volumes: [
        { name: "token", secret: { secretName: names.token, defaultMode: 0o440 } },
        { name: "tmp", emptyDir: {} },
        ...storeVolume(router.store, names.routerParts),
        ...secrets.map((secretName, at) => ({ name: `secret-${at}`, secret: { secretName, defaultMode: 0o440 } })),
      ],
    },
  };
}

/** Secrets that the router reads as files, and again when they change. */
function secretsOf({ auth, store }: RouterPlan): string[] {
  const names = [
    ...(auth.mode === "ApiKey" ? [auth.secretName] : []),
    ...(store.kind === "redis" ? [store.secretName] : []),
  ];
  return [...new Set(names)].sort();
}

function storeVolume(store: RouterPlan["store"], claimName: string) {
  if (store.kind !== "embedded") return [];
  if (store.ephemeral) return [{ name: "store", emptyDir: {} }];
  return [{ name: "store", persistentVolumeClaim: { claimName } }];
}

/** The volume of the one router's store. One pod at a time may have it, on whatever node. */
export function storeClaim({ pool, router: { store } }: PoolPlan): ObjectOf<V1PersistentVolumeClaim> | undefined {
  if (store.kind !== "embedded" || store.ephemeral) return undefined;
  return {
    apiVersion: "v1",
    kind: "PersistentVolumeClaim",
    metadata: { name: namesOf(pool).routerParts, labels: objectLabels(pool, "router") },
    spec: { accessModes: ["ReadWriteOncePod"], resources: { requests: { storage: store.storage ?? "1Gi" } } },
  };
}

/** What clients call. */
export function routerService(pool: LLMPool): ObjectOf<V1Service> {
  const { name } = pool.metadata;
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: namesOf(name).router, labels: objectLabels(name, "router") },
    spec: {
      type: pool.spec.router.serviceType ?? "ClusterIP",
      selector: podLabels(name, "router"),
      ports: [{ name: "http", port: ROUTER_PORT, targetPort: ROUTER_PORT, protocol: "TCP" }],
    },
  };
}
