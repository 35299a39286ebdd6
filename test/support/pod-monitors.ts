import type { TestCluster } from "./cluster.ts";

const NAME = "podmonitors.monitoring.coreos.com";

/** The kind PodMonitor without its rules, as a cluster with the Prometheus operator has it. */
const KIND = {
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: NAME },
  spec: {
    group: "monitoring.coreos.com",
    names: { kind: "PodMonitor", plural: "podmonitors", singular: "podmonitor", listKind: "PodMonitorList" },
    scope: "Namespaced",
    versions: [
      {
        name: "v1",
        served: true,
        storage: true,
        schema: { openAPIV3Schema: { type: "object", "x-kubernetes-preserve-unknown-fields": true } },
      },
    ],
  },
};

export async function installPodMonitors(cluster: TestCluster): Promise<void> {
  await cluster.apply([KIND]);
  await cluster.kubectl(["wait", "--for=create", `crd/${NAME}`, "--timeout=30s"]);
  await cluster.kubectl(["wait", "--for=condition=Established", `crd/${NAME}`, "--timeout=30s"]);
}

export async function removePodMonitors(cluster: TestCluster): Promise<void> {
  await cluster.kubectl(["delete", "crd", NAME, "--ignore-not-found"]);
}
