import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { type Api, connect } from "./api.ts";
import { startApiServer } from "./api-server.ts";
import type { Certificates } from "./certificates.ts";
import { type Home, networkOf } from "./home.ts";
import { freePorts } from "./ports.ts";
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
  /** Its URL. */
  etcd: string;
  api: Api;
}

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
  const apiServer = startApiServer({
    home,
    certificates,
    program: programs["kube-apiserver"],
    name: "kube-apiserver",
    address,
    port: port ?? 0,
    etcd: etcdUrl,
    auditLog,
    // Without a node nobody comes through the Service, and a loopback address may not be advertised.
    advertised: withNode,
  });
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
  return { server, kubeconfig, auditLog, etcd: etcdUrl, api };
}
