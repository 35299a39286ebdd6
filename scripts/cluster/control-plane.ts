import { mkdir, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { type Api, connect } from "./api.ts";
import type { Certificates } from "./certificates.ts";
import { type Home, networkOf } from "./home.ts";
import { start, until } from "./processes.ts";

interface Needs {
  home: Home;
  certificates: Certificates;
  programs: Record<"etcd" | "kube-apiserver" | "kube-controller-manager" | "kube-scheduler", string>;
  /** With a node the API server listens where pods reach it; without one, on the loopback address. */
  withNode: boolean;
}

export interface ControlPlane {
  server: string;
  kubeconfig: string;
  auditLog: string;
  api: Api;
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

/** Starts etcd, the API server, the controllers and the scheduler, and returns when the API server is ready. */
export async function startControlPlane({ home, certificates, programs, withNode }: Needs): Promise<ControlPlane> {
  const { run } = home;
  const net = networkOf(home);
  const address = withNode ? net.host : "127.0.0.1";
  const [client, peer, controllers, scheduler] = await freePorts(4, "127.0.0.1");
  const [port] = await freePorts(1, address);
  const server = `https://${address}:${port}`;
  const etcdUrl = `http://127.0.0.1:${client}`;
  const kubeconfig = join(run, "admin.kubeconfig");
  const auditLog = join(run, "audit.log");
  const tls = (name: string) => certificates.file(name);
  await writeFile(join(run, "audit-policy.json"), JSON.stringify(AUDIT_POLICY));
  await mkdir(join(run, "etcd"), { mode: 0o700 });

  const dns = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
  ];
  const ips = ["127.0.0.1", net.host, net.api];
  const names = [...dns.map((name) => `DNS:${name}`), ...ips.map((ip) => `IP:${ip}`)];
  await Promise.all([
    certificates.issue("apiserver", { cn: "kube-apiserver", names }),
    certificates.issue("apiserver-to-kubelet", { cn: "kube-apiserver", group: "system:masters" }),
    certificates.issue("front-proxy", { cn: "front-proxy" }),
    certificates.issue("admin", { cn: "admin", group: "system:masters" }),
    certificates.issue("kube-controller-manager", { cn: "system:kube-controller-manager" }),
    certificates.issue("kube-scheduler", { cn: "system:kube-scheduler" }),
  ]);
  await certificates.kubeconfig(kubeconfig, server, "admin");
  for (const name of ["kube-controller-manager", "kube-scheduler"])
    await certificates.kubeconfig(join(run, `${name}.kubeconfig`), server, name);

  const etcd = start(run, "etcd", programs.etcd, [
    `--data-dir=${join(run, "etcd")}`,
    "--unsafe-no-fsync",
    `--listen-client-urls=${etcdUrl}`,
    `--advertise-client-urls=${etcdUrl}`,
    `--listen-peer-urls=http://127.0.0.1:${peer}`,
    `--initial-advertise-peer-urls=http://127.0.0.1:${peer}`,
    `--initial-cluster=default=http://127.0.0.1:${peer}`,
  ]);
  const apiServer = start(run, "kube-apiserver", programs["kube-apiserver"], [
    `--etcd-servers=${etcdUrl}`,
    `--bind-address=${address}`,
    `--secure-port=${port}`,
    // Without a node nobody comes through the Service, and a loopback address may not be advertised.
    ...(withNode ? [`--advertise-address=${address}`] : ["--endpoint-reconciler-type=none"]),
    `--service-cluster-ip-range=${net.services}`,
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
    `--audit-policy-file=${join(run, "audit-policy.json")}`,
    `--audit-log-path=${auditLog}`,
    "--audit-log-mode=blocking",
  ]);
  const api = connect(server, certificates);
  await until("the API server", [etcd, apiServer], () => api.isReady());

  const clients = [
    start(run, "kube-controller-manager", programs["kube-controller-manager"], [
      `--kubeconfig=${join(run, "kube-controller-manager.kubeconfig")}`,
      "--leader-elect=false",
      "--bind-address=127.0.0.1",
      `--secure-port=${controllers}`,
      `--service-account-private-key-file=${tls("sa.key")}`,
      `--root-ca-file=${tls("ca.crt")}`,
      "--use-service-account-credentials",
      "--horizontal-pod-autoscaler-sync-period=2s",
      // Else it makes this folder in /usr.
      `--flex-volume-plugin-dir=${join(run, "volume-plugins")}`,
    ]),
    start(run, "kube-scheduler", programs["kube-scheduler"], [
      `--kubeconfig=${join(run, "kube-scheduler.kubeconfig")}`,
      "--leader-elect=false",
      "--bind-address=127.0.0.1",
      `--secure-port=${scheduler}`,
    ]),
  ];
  // Pods are admitted only after this controller has made the namespace's account.
  await until("the controllers", [etcd, apiServer, ...clients], () =>
    api.exists("/api/v1/namespaces/default/serviceaccounts/default"),
  );
  return { server, kubeconfig, auditLog, api };
}

/** Ports that are free on this address now. All are held until all are found, so no two are the same. */
async function freePorts(count: number, address: string): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer();
      await new Promise<void>((resolve, reject) => server.once("error", reject).listen(0, address, resolve));
      return server;
    }),
  );
  return Promise.all(
    servers.map((server) => {
      const bound = server.address();
      return new Promise<number>((resolve) => {
        server.close(() => resolve(typeof bound === "object" && bound ? bound.port : 0));
      });
    }),
  );
}
