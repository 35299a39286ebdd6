import type { Command } from "commander";
import { LLMPOOLS } from "../cluster/llmpools.ts";
import { Client } from "../kube/client.ts";
import { Connection } from "../kube/connection.ts";
import { findCluster } from "../kube/credentials.ts";
import { systemClock } from "../lib/clock.ts";
import type { CliIo } from "./io.ts";
import { packageVersion } from "./version.ts";

export interface ClusterFlags {
  namespace?: string;
  kubeconfig?: string;
  context?: string;
}

/** The flags by which a command finds its cluster, as kubectl has them. */
export function withCluster(command: Command): Command {
  return command
    .option("-n, --namespace <name>", "namespace of the cluster; default: the context's")
    .option("--kubeconfig <file>", "which cluster; default KUBECONFIG, the pod's own, ~/.kube/config")
    .option("--context <name>", "context of the kubeconfig");
}

/** Whether a cluster is meant, and not this machine: somebody says where, or calls `kubectl llmpool`. */
export const meansCluster = ({ namespace, kubeconfig, context }: ClusterFlags, io: CliIo): boolean =>
  io.kubectl === true || [namespace, kubeconfig, context].some((flag) => flag !== undefined);

export interface ClusterAccess {
  client: Client;
  server: string;
  namespace: string;
}

/** Opens what is closed when the stack is disposed of. Rejects with a text for the user when no cluster is known. */
export async function openCluster(stack: AsyncDisposableStack, flags: ClusterFlags, io: CliIo): Promise<ClusterAccess> {
  const { kubeconfig, context, namespace } = flags;
  const credentials = await findCluster({ env: { ...io.env }, kubeconfig, context });
  const clock = systemClock;
  const connection = stack.use(new Connection({ credentials, clock, userAgent: `llmpool/${packageVersion()}` }));
  return {
    client: new Client({ connection, clock, resources: [LLMPOOLS] }),
    server: credentials.server,
    namespace: namespace ?? credentials.namespace ?? "default",
  };
}
