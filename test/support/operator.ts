import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import type { Ask } from "../../operator/ask.ts";
import { runOperator } from "../../operator/operator.ts";
import { defaultImages } from "../../operator/render/settings.ts";
import { fromKubeconfig } from "../../src/kube/kubeconfig.ts";
import { NotLeaderError } from "../../src/kube/lease.ts";
import type { KubeMetrics } from "../../src/kube/metrics.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { type Logger, silentLogger } from "../../src/lib/logger.ts";
import { rendered } from "./chart.ts";
import type { TestCluster } from "./cluster.ts";
import { onlyOurs } from "./only-ours.ts";
import { tempDir } from "./temp-dir.ts";

/** What an account may do, and that it is there. */
const ACCESS = ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"];

/**
 * A kubeconfig of the account that the chart makes in `namespace`, with the chart's roles and no others.
 * @param watch the one namespace whose pools it may look after; "": all of them
 */
export async function operatorAccount(cluster: TestCluster, namespace: string, watch: string): Promise<string> {
  const values = { watchNamespace: watch, "rbac.aggregate": false };
  const objects = [...(await rendered(cluster, values, namespace)).values()].filter(({ kind }) =>
    ACCESS.includes(kind),
  );
  await cluster.apply(objects, namespace);
  const wide = objects.filter(({ kind }) => kind.startsWith("Cluster"));
  if (wide.length > 0)
    onTestFinished(async () => {
      await cluster.kubectl(["delete", ...wide.map(({ kind, metadata }) => `${kind}/${metadata.name}`)]);
    });
  return tokenKubeconfig(cluster, namespace, nameOf(objects));
}

/** A token of such an account, for the pools of its own namespace. */
export async function operatorToken(cluster: TestCluster, namespace: string): Promise<string> {
  const { headers } = await fromKubeconfig(await operatorAccount(cluster, namespace, namespace)).read();
  return headers.authorization?.replace("Bearer ", "") ?? "";
}

const nameOf = (objects: KubeObject[]) => objects.find(({ kind }) => kind === "ServiceAccount")?.metadata.name ?? "";

async function tokenKubeconfig(cluster: TestCluster, namespace: string, account: string): Promise<string> {
  const token = (await cluster.kubectl(["create", "token", account, "--namespace", namespace])).trim();
  const shown = await cluster.kubectl(["config", "view", "--raw", "--minify", "--output", "json"]);
  const config = JSON.parse(shown) as { users: { name: string; user: object }[] };
  const users = config.users.map(({ name }) => ({ name, user: { token } }));
  const file = join(await tempDir(), "kubeconfig");
  await writeFile(file, JSON.stringify({ ...config, users }), { mode: 0o600 });
  return file;
}

export interface TestOperator {
  kubeconfig: string;
  /** Where its Lease is. */
  ownNamespace: string;
  /** Whose pools it looks after; undefined: everybody's. */
  namespace?: string;
  version?: string;
  /** Put in front of the names of its images. */
  registry?: string;
  /** How instances are asked; default: only those of this machine and the real node are, over HTTP. */
  ask?: Ask;
  log?: Logger;
  metrics?: KubeMetrics;
}

/**
 * Runs an operator in this process, until the test ends or what it returns is called. One that loses its Lease, as on a machine that is busy with
 * others for ten seconds, is followed by another, as its Deployment would have it.
 */
export function startOperator({
  kubeconfig,
  version = "0.0.0-test",
  registry,
  ask = onlyOurs,
  log = silentLogger,
  ...where
}: TestOperator): () => Promise<void> {
  const end = new AbortController();
  const options = {
    ...where,
    credentials: fromKubeconfig(kubeconfig),
    version,
    images: defaultImages(version, registry),
    clock: systemClock,
    random: Math.random,
    log,
    ask,
  };
  const run = async () => {
    while (!end.signal.aborted) {
      const identity = `test-${Math.random()}`;
      await runOperator({ ...options, identity }, end.signal).catch((error: unknown) => {
        if (!(error instanceof NotLeaderError)) throw error;
      });
    }
  };
  const running = run();
  const stop = async () => {
    end.abort(new Error("the test is over"));
    await running;
  };
  onTestFinished(stop);
  return stop;
}
