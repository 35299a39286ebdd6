import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Certificates } from "./certificates.ts";
import { type Home, networkOf } from "./home.ts";
import { type Started, start } from "./processes.ts";

export interface ApiServerOptions {
  home: Home;
  certificates: Certificates;
  program: string;
  /** Of the process, and of its log. */
  name: string;
  /** Where it listens. */
  address: string;
  port: number;
  /** URL of its etcd, or of what stands before it. */
  etcd: string;
  auditLog: string;
  /** Whether the Service `kubernetes` leads to it. */
  advertised: boolean;
}

/**
 * Writes, each once and with who did it, and what service accounts read; all other reads would be most of the log. The parts of the cluster
 * itself are left out: what they do is no answer to any test's question.
 */
const AUDIT_POLICY = {
  apiVersion: "audit.k8s.io/v1",
  kind: "Policy",
  omitStages: ["RequestReceived"],
  omitManagedFields: true,
  rules: [
    { level: "None", users: ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "kwok"] },
    { level: "None", userGroups: ["system:nodes"] },
    { level: "None", userGroups: ["system:serviceaccounts:kube-system"] },
    { level: "Metadata", userGroups: ["system:serviceaccounts"] },
    { level: "None", verbs: ["get", "list", "watch"] },
    { level: "Metadata" },
  ],
};

/** Starts an API server with certificates that were issued before, and waits for nothing. */
export function startApiServer({ home, certificates, program, name, ...options }: ApiServerOptions): Started {
  const { address, port, etcd, auditLog, advertised } = options;
  const { run } = home;
  const tls = (name: string) => certificates.file(name);
  const auditPolicy = join(run, "audit-policy.json");
  writeFileSync(auditPolicy, JSON.stringify(AUDIT_POLICY));
  return start(run, name, program, [
    `--etcd-servers=${etcd}`,
    `--bind-address=${address}`,
    `--secure-port=${port}`,
    ...(advertised ? [`--advertise-address=${address}`] : ["--endpoint-reconciler-type=none"]),
    `--service-cluster-ip-range=${networkOf(home).services}`,
    "--authorization-mode=Node,RBAC",
    // The second gives a pod that asks for a GPU the toleration of nodes that are kept for GPUs, as managed clusters do. By the third, whoever names
    // an owner that waits for its objects needs a right to the owner's finalizers, as on OpenShift.
    "--enable-admission-plugins=NodeRestriction,ExtendedResourceToleration,OwnerReferencesPermissionEnforcement",
    "--allow-privileged",
    `--tls-cert-file=${tls("apiserver.crt")}`,
    `--tls-private-key-file=${tls("apiserver.key")}`,
    `--client-ca-file=${tls("ca.crt")}`,
    "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
    `--service-account-key-file=${tls("sa.pub")}`,
    `--service-account-signing-key-file=${tls("sa.key")}`,
    `--kubelet-client-certificate=${tls("apiserver-to-kubelet.crt")}`,
    `--kubelet-client-key=${tls("apiserver-to-kubelet.key")}`,
    `--kubelet-certificate-authority=${tls("ca.crt")}`,
    "--kubelet-preferred-address-types=InternalIP",
    // The aggregation layer, for tests that bring a metrics API of their own.
    `--requestheader-client-ca-file=${tls("ca.crt")}`,
    "--requestheader-allowed-names=front-proxy",
    "--requestheader-username-headers=X-Remote-User",
    "--requestheader-group-headers=X-Remote-Group",
    "--requestheader-extra-headers-prefix=X-Remote-Extra-",
    `--proxy-client-cert-file=${tls("front-proxy.crt")}`,
    `--proxy-client-key-file=${tls("front-proxy.key")}`,
    "--enable-aggregator-routing",
    `--audit-policy-file=${auditPolicy}`,
    `--audit-log-path=${auditLog}`,
    "--audit-log-mode=blocking",
  ]);
}
