import { existsSync, readFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Certificates } from "./certificates.ts";
import { command } from "./command.ts";
import type { ControlPlane } from "./control-plane.ts";
import { type Home, networkOf } from "./home.ts";
import { containerdConfig, corefile, kubeletConfig, podNetwork } from "./node-config.ts";
import { NEW_SPACES } from "./node-needs.ts";
import { processesOf, type Started, start, until } from "./processes.ts";

export const NODE_NAME = "llmpool-node";

interface Needs {
  home: Home;
  certificates: Certificates;
  programs: Record<"kubelet" | "kube-proxy" | "coredns", string>;
}

/**
 * Makes the node's namespaces and the link between them and this machine: one interface here, whose other end is the node's only way out.
 * Nothing of this machine's own network or firewall is changed. Pods reach this machine, and nothing beyond it.
 */
export async function makeNodeSpace(home: Home): Promise<Started> {
  const { link, host, node, pods, services } = networkOf(home);
  const dir = join(home.run, "node");
  await mkdir(dir, { recursive: true });
  const script = fileURLToPath(new URL("node-init.sh", import.meta.url));
  const [file, ...args] = [...NEW_SPACES, "sh", script, dir, NODE_NAME];
  const space = start(home.run, "node", file, args);
  await until("the node's namespaces", [space], () => existsSync(join(dir, "ready")));
  const init = initOf(home);
  await command("ip", ["link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", String(init)]);
  await command("ip", ["address", "add", `${host}/30`, "dev", link]);
  await command("ip", ["link", "set", link, "up"]);
  await command("ip", ["route", "add", pods, "via", node, "dev", link]);
  await command("ip", ["route", "add", services, "via", node, "dev", link]);
  const inside = (...args: string[]) => inNode(home, "ip", args);
  await inside("address", "add", `${node}/30`, "dev", "eth0");
  await inside("link", "set", "eth0", "up");
  await inside("route", "add", "default", "via", host);
  return space;
}

/** Runs a command in the node's namespaces and returns what it prints. */
export function inNode(home: Home, file: string, args: readonly string[], input?: string): Promise<string> {
  return command("nsenter", [...enter(home), file, ...args], { input });
}

function enter(home: Home): string[] {
  return ["--target", String(initOf(home)), "--mount", "--net", "--pid", "--ipc", "--uts", "--"];
}

/** Process 1 of the node, as this machine numbers it. */
function initOf({ run }: Home): number {
  for (const { pid } of processesOf(run)) {
    try {
      // Its pid here, and in the namespace that it is the first of.
      const ids = /^NSpid:\s*(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]?.split(/\s+/) ?? [];
      if (ids.length === 2 && ids[1] === "1") return pid;
    } catch {
      // Ended meanwhile.
    }
  }
  throw new Error("the test cluster's node is not running");
}

/** Starts containerd, which needs no API server, so that images can come while that starts. */
export async function startContainerd(home: Home): Promise<Started> {
  const dir = join(home.run, "node");
  await mkdir(join(dir, "cni"), { recursive: true });
  await writeFile(join(dir, "cni", "10-pods.conflist"), JSON.stringify(podNetwork(networkOf(home))));
  await writeFile(join(dir, "containerd.toml"), containerdConfig(join(dir, "cni")));
  const args = ["containerd", "--config", join(dir, "containerd.toml")];
  const containerd = start(home.run, "containerd", "nsenter", [...enter(home), ...args]);
  await until("containerd", [containerd], async () => (await inNode(home, "ctr", ["version"])) !== "");
  return containerd;
}

/** Starts kubelet, kube-proxy and the cluster's DNS, and returns when the node is Ready. The sandbox image must be there. */
export async function startNode({ home, certificates, programs }: Needs, { server, api }: ControlPlane): Promise<void> {
  const net = networkOf(home);
  const { run } = home;
  const dir = join(run, "node");
  const users = {
    kubelet: { cn: `system:node:${NODE_NAME}`, group: "system:nodes", names: [`IP:${net.node}`, `DNS:${NODE_NAME}`] },
    "kube-proxy": { cn: "system:kube-proxy" },
    // The cluster's DNS reads all Services; it is a part of the control plane here, not a guest.
    coredns: { cn: "coredns", group: "system:masters" },
  };
  await Promise.all(
    Object.entries(users).map(async ([name, identity]) => {
      await certificates.issue(name, identity);
      await certificates.kubeconfig(join(run, `${name}.kubeconfig`), server, name);
    }),
  );
  const group = await makeControlGroup(home);
  await writeFile(join(dir, "resolv.conf"), `nameserver ${net.node}\n`);
  await writeFile(join(dir, "kubelet.json"), JSON.stringify(kubeletConfig(net, certificates, dir, group)));
  await writeFile(join(dir, "Corefile"), corefile(net, join(run, "coredns.kubeconfig")));
  const inside = (name: string, file: string, args: string[]) =>
    start(run, name, "nsenter", [...enter(home), file, ...args]);
  const started = [
    inside("kubelet", programs.kubelet, [
      `--config=${join(dir, "kubelet.json")}`,
      `--kubeconfig=${join(run, "kubelet.kubeconfig")}`,
      `--hostname-override=${NODE_NAME}`,
      `--node-ip=${net.node}`,
    ]),
    inside("kube-proxy", programs["kube-proxy"], [
      `--kubeconfig=${join(run, "kube-proxy.kubeconfig")}`,
      "--proxy-mode=nftables",
      `--cluster-cidr=${net.pods}`,
      "--conntrack-max-per-core=0",
      `--hostname-override=${NODE_NAME}`,
    ]),
    inside("coredns", programs.coredns, [`-conf=${join(dir, "Corefile")}`]),
  ];
  await until("the node to be Ready", started, async () => {
    const node = (await api.call("GET", `/api/v1/nodes/${NODE_NAME}`)) as NodeStatus;
    return node.status.conditions?.some((c) => c.type === "Ready" && c.status === "True") ?? false;
  });
}

/** Kills the kubelet, and nothing that it has started. Returns what starts it again as it was. */
export function killKubelet(home: Home): () => void {
  const { pid } = processesOf(home.run).find(({ name }) => name === "kubelet") ?? {};
  if (pid === undefined) throw new Error("no kubelet is running");
  const [file = "", ...args] = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").slice(0, -1);
  process.kill(pid, "SIGKILL");
  return () => void start(home.run, "kubelet", "nsenter", [...enter(home), file, ...args]);
}

interface NodeStatus {
  status: { conditions?: { type: string; status: string }[] };
}

/** The folders of this cluster's control group, one per hierarchy: one on cgroup v2, one per controller on v1. */
export function controlGroups({ slot }: Home): string[] {
  return readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .map((line) => line.split(" "))
    .filter(([, , type]) => type === "cgroup" || type === "cgroup2")
    .map(([, point = ""]) => join(point, `test-cluster-${slot}`));
}

/** Ten times a process's share of the CPUs, on cgroup v1 and v2. */
const POD_WEIGHT = [
  ["cpu.shares", "10240"],
  ["cpu.weight", "1000"],
] as const;

/**
 * A control group of our own above the pods', so that it can be found and removed. Returns its name as a kubelet wants it. Without a greater
 * weight all pods together would get as much of a busy machine as one process beside them, and would not start within any probe's patience.
 */
async function makeControlGroup(home: Home): Promise<string> {
  for (const dir of controlGroups(home)) {
    await mkdir(dir, { recursive: true });
    for (const [file, weight] of POD_WEIGHT) {
      if (existsSync(join(dir, file))) await writeFile(join(dir, file), weight);
    }
  }
  return `/test-cluster-${home.slot}`;
}
