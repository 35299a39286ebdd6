import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { SOURCES } from "./home.ts";

/** A program of the test cluster, and the Go module of test/cluster/go that pins it. */
interface Program {
  module: "kubernetes" | "etcd" | "helm" | "kwok" | "coredns";
  /** The Go package to build, inside that module. */
  package: string;
}

export const PROGRAMS = {
  etcd: { module: "etcd", package: "go.etcd.io/etcd/server/v3" },
  "kube-apiserver": { module: "kubernetes", package: "k8s.io/kubernetes/cmd/kube-apiserver" },
  "kube-controller-manager": { module: "kubernetes", package: "k8s.io/kubernetes/cmd/kube-controller-manager" },
  "kube-scheduler": { module: "kubernetes", package: "k8s.io/kubernetes/cmd/kube-scheduler" },
  kubectl: { module: "kubernetes", package: "k8s.io/kubernetes/cmd/kubectl" },
  kwok: { module: "kwok", package: "sigs.k8s.io/kwok/cmd/kwok" },
  helm: { module: "helm", package: "helm.sh/helm/v4/cmd/helm" },
  kubelet: { module: "kubernetes", package: "k8s.io/kubernetes/cmd/kubelet" },
  "kube-proxy": { module: "kubernetes", package: "k8s.io/kubernetes/cmd/kube-proxy" },
  coredns: { module: "coredns", package: "." },
} as const satisfies Record<string, Program>;

export type ProgramName = keyof typeof PROGRAMS;

/** What the control plane needs, KWOK and helm included; and what a real node needs besides. */
export const CONTROL_PLANE: readonly ProgramName[] = [
  "etcd",
  "kube-apiserver",
  "kube-controller-manager",
  "kube-scheduler",
  "kubectl",
  "kwok",
  "helm",
];
export const NODE: readonly ProgramName[] = ["kubelet", "kube-proxy", "coredns"];

const REQUIRED = {
  kubernetes: "k8s.io/kubernetes",
  etcd: "go.etcd.io/etcd/server/v3",
  helm: "helm.sh/helm/v4",
  kwok: "sigs.k8s.io/kwok",
  coredns: "github.com/coredns/coredns",
} as const satisfies Record<Program["module"], string>;

/** The folder of the module's sources, the version it pins (without `v`), and a hash of all that decides the built program. */
export function moduleOf(name: ProgramName): { dir: string; version: string; hash: string } {
  const { module } = PROGRAMS[name];
  const dir = join(SOURCES, module);
  const mod = readFileSync(join(dir, "go.mod"), "utf8");
  const version = new RegExp(`\\s${REQUIRED[module].replaceAll(".", "\\.")} v(\\S+)`).exec(mod)?.[1];
  if (version === undefined) throw new Error(`${join(dir, "go.mod")} does not require ${REQUIRED[module]}`);
  const hash = createHash("sha256");
  for (const file of readdirSync(dir).sort()) hash.update(file).update(readFileSync(join(dir, file)));
  return { dir, version, hash: hash.digest("hex").slice(0, 12) };
}
