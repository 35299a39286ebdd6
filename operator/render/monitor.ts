import { LABELS } from "../../src/api/names.ts";
import type { PoolPlan } from "../../src/core/plan/types.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { type Component, namesOf, objectLabels, podLabels } from "./names.ts";

/** `monitoring.coreos.com/v1`, as far as it is used. */
export interface PodMonitor extends KubeObject {
  spec: {
    selector: { matchLabels: Record<string, string> };
    podTargetLabels: string[];
    podMetricsEndpoints: { port: string; path: string }[];
  };
}

/** What Prometheus scrapes: each router, and each instance on its own port. */
export function podMonitors({ pool, variants }: PoolPlan): PodMonitor[] {
  const slots = Math.max(...variants.map(({ gpu }) => gpu?.instancesPerPod ?? 1));
  const instancePorts = Array.from({ length: slots }, (_, slot) => (slot === 0 ? "metrics" : `metrics-${slot}`));
  const names = namesOf(pool);
  return [
    podMonitor(names.instances, pool, "instance", instancePorts),
    podMonitor(names.routerParts, pool, "router", ["http"]),
  ];
}

function podMonitor(name: string, pool: string, component: Component, ports: string[]): PodMonitor {
  return {
    apiVersion: "monitoring.coreos.com/v1",
    kind: "PodMonitor",
    metadata: { name, labels: objectLabels(pool, component) },
    spec: {
      selector: { matchLabels: podLabels(pool, component) },
      podTargetLabels: [LABELS.pool, LABELS.variant],
      podMetricsEndpoints: ports.map((port) => ({ port, path: "/metrics" })),
    },
  };
}
