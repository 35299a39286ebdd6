import { join } from "node:path";
import type { Certificates } from "./certificates.ts";
import type { Network } from "./home.ts";
import { CNI_PLUGINS } from "./node-needs.ts";

/** The image whose one process holds a pod's namespaces. */
export const SANDBOX_IMAGE = "llmpool.test/sandbox:1";

/**
 * `ptp` gives each pod a link of its own to the node, so that all traffic between pods is routed and so passes kube-proxy's rules. A
 * bridge would need a kernel module for that.
 */
export function podNetwork({ pods }: Network): unknown {
  const ipam = {
    type: "host-local",
    dataDir: "/run/cni",
    ranges: [[{ subnet: pods }]],
    routes: [{ dst: "0.0.0.0/0" }],
  };
  return { cniVersion: "0.4.0", name: "pods", plugins: [{ type: "ptp", ipMasq: false, ipam }] };
}

/** Sockets and state are in `/run`, images in `/var/lib`: both are the node's own. */
export function containerdConfig(cniDir: string): string {
  return `version = 2
disabled_plugins = ["io.containerd.internal.v1.opt"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${SANDBOX_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${CNI_PLUGINS}"
    conf_dir = "${cniDir}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`;
}

export function kubeletConfig(net: Network, certificates: Certificates, dir: string, cgroupRoot: string): unknown {
  return {
    apiVersion: "kubelet.config.k8s.io/v1beta1",
    kind: "KubeletConfiguration",
    containerRuntimeEndpoint: "unix:///run/containerd/containerd.sock",
    authentication: {
      anonymous: { enabled: false },
      x509: { clientCAFile: certificates.file("ca.crt") },
      webhook: { enabled: true },
    },
    authorization: { mode: "Webhook" },
    tlsCertFile: certificates.file("kubelet.crt"),
    tlsPrivateKeyFile: certificates.file("kubelet.key"),
    clusterDNS: [net.node],
    clusterDomain: "cluster.local",
    resolvConf: join(dir, "resolv.conf"),
    cgroupDriver: "cgroupfs",
    cgroupRoot,
    enforceNodeAllocatable: [],
    failCgroupV1: false,
    failSwapOn: false,
    volumePluginDir: join(dir, "volume-plugins"),
    // Images cannot be fetched again, so none is ever removed; and a full disk is this machine's matter, not a pod's.
    imageGCHighThresholdPercent: 100,
    imageMinimumGCAge: "24h",
    evictionHard: { "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
    // Tests look at pods as they change; the defaults are for large clusters.
    syncFrequency: "10s",
    nodeStatusUpdateFrequency: "5s",
  };
}

/** Services and pods by name; any other name has no answer, because pods reach nothing beyond this machine. */
export function corefile({ node }: Network, kubeconfig: string): string {
  return `. {
  bind ${node}
  errors
  ready ${node}:8181
  kubernetes cluster.local {
    kubeconfig ${kubeconfig}
    pods insecure
    ttl 1
  }
}
`;
}
