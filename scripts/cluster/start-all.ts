import { mkdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Certificates } from "./certificates.ts";
import { startControlPlane } from "./control-plane.ts";
import { type Home, networkOf } from "./home.ts";
import { buildBase } from "./images.ts";
import { startKwok } from "./kwok.ts";
import type { CONTROL_PLANE, NODE } from "./modules.ts";
import { makeNodeSpace, NODE_NAME, startContainerd, startNode } from "./node.ts";
import { makeStorageClass } from "./volumes.ts";

/** A running cluster, as `cluster.json` in its folder tells it. */
export interface ClusterFacts {
  kubeconfig: string;
  server: string;
  programs: { kubectl: string; helm: string };
  /** One JSON event per line: every write of everyone but the cluster's own parts. */
  auditLog: string;
  /** What another API server beside the first is made of: the program, and the URL of etcd. */
  apiServer: { program: string; etcd: string };
  /** When there is a real node: its name, and the address of this machine that its pods reach. */
  node?: { name: string; hostAddress: string };
}

export type ControlPlanePrograms = Record<(typeof CONTROL_PLANE)[number], string>;
export type NodePrograms = Record<(typeof NODE)[number], string>;

/** Starts everything and returns when all of it is ready. Removing what a failed start has left is the caller's. */
export async function startAll(home: Home, programs: ControlPlanePrograms, node?: NodePrograms): Promise<ClusterFacts> {
  await mkdir(home.run, { recursive: true });
  // The API server listens on the node's link, so that comes first.
  if (node) await makeNodeSpace(home);
  const certificates = await Certificates.create(join(home.run, "pki"));
  const [plane] = await Promise.all([
    startControlPlane({ home, certificates, programs, withNode: node !== undefined }),
    node && startContainerd(home).then(() => buildBase(home)),
  ]);
  await Promise.all([
    makeStorageClass(plane.api),
    startKwok(home, certificates, programs.kwok, plane.server),
    node && startNode({ home, certificates, programs: node }, plane),
  ]);
  const facts: ClusterFacts = {
    kubeconfig: plane.kubeconfig,
    server: plane.server,
    programs: { kubectl: programs.kubectl, helm: programs.helm },
    auditLog: plane.auditLog,
    apiServer: { program: programs["kube-apiserver"], etcd: plane.etcd },
    ...(node && { node: { name: NODE_NAME, hostAddress: networkOf(home).host } }),
  };
  const file = factsFile(home);
  await writeFile(`${file}.new`, JSON.stringify(facts, null, 2));
  await rename(`${file}.new`, file);
  return facts;
}

export function factsFile({ run }: Home): string {
  return join(run, "cluster.json");
}
