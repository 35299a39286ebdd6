import { fileURLToPath } from "node:url";
import { LLMPOOLS } from "../../operator/kinds.ts";
import { command } from "../../scripts/cluster/command.ts";
import { clusterForRun } from "../../scripts/cluster/for-tests.ts";
import { BASE_IMAGE, buildImage } from "../../scripts/cluster/images.ts";
import { release } from "../../scripts/cluster/lifecycle.ts";
import { lock } from "../../scripts/cluster/lock.ts";
import { Client } from "../../src/kube/client.ts";
import { Connection } from "../../src/kube/connection.ts";
import { fromKubeconfig } from "../../src/kube/kubeconfig.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { type Call, recordWrites } from "../support/audit.ts";
import { buildImages } from "../support/images.ts";

const CHART = fileURLToPath(new URL("../../helm/llmpool", import.meta.url));
/** Where the operator runs. */
const SYSTEM = "llmpool-bench";

export interface InstalledChart {
  client: Client;
  /** `system:serviceaccount:…` of the operator, as the audit log has it. */
  user: string;
  /** Every write from now on, whoever makes it. */
  recordWrites(): Promise<() => Promise<Call[]>>;
  /** A new namespace. */
  namespace(): Promise<string>;
  /** What the operator says at `/metrics`. */
  metrics(): Promise<string>;
}

/**
 * The chart, installed on a cluster with a real node from images of these sources; all of it goes when the stack is disposed of. Rejects
 * where there is no real node, with the line that would enable it.
 */
export async function installChart(stack: AsyncDisposableStack, say: (line: string) => void): Promise<InstalledChart> {
  const { home, facts, lacking } = await clusterForRun(process.env, process.pid, say);
  stack.defer(() => release(home, process.pid, say));
  if (!facts?.node || facts.auditLog === undefined) throw new Error(`needs a cluster with a real node: ${lacking}`);
  const { kubeconfig, programs, auditLog } = facts;
  const turn = await lock(`${home.run}.tests.lock`, () => say("tests use the cluster; waiting for them to end"));
  stack.defer(() => turn.close());
  const kubectl = (...args: string[]) => command(programs.kubectl, ["--kubeconfig", kubeconfig, ...args]);
  const helm = (...args: string[]) =>
    command(programs.helm, [...args, "--namespace", SYSTEM], { env: { ...process.env, KUBECONFIG: kubeconfig } });

  say("builds the images");
  const { registry } = await buildImages({ baseImage: BASE_IMAGE, buildImage: (source) => buildImage(home, source) });
  say("installs the chart");
  stack.defer(async () => {
    await helm("uninstall", "llmpool", "--ignore-not-found", "--wait");
    await kubectl("delete", "crd", LLMPOOL_CRD, "--ignore-not-found");
    await kubectl("delete", "namespace", SYSTEM, "--ignore-not-found");
  });
  const flags = ["--create-namespace", "--wait", "--timeout=180s", "--set", `image.registry=${registry}`];
  await helm("install", "llmpool", CHART, ...flags);

  const credentials = fromKubeconfig(kubeconfig);
  const connection = stack.use(new Connection({ credentials, clock: systemClock, userAgent: "bench" }));
  const names = { next: 0 };
  return {
    client: new Client({ connection, clock: systemClock, resources: [LLMPOOLS] }),
    user: `system:serviceaccount:${SYSTEM}:llmpool`,
    recordWrites: () => recordWrites(auditLog),
    async namespace() {
      const name = `bench-${names.next++}`;
      await kubectl("create", "namespace", name);
      stack.defer(() => kubectl("delete", "namespace", name, "--ignore-not-found").then(() => {}));
      return name;
    },
    async metrics() {
      const service = await kubectl("get", "service", "llmpool-metrics", "--namespace", SYSTEM, "--output", "json");
      const { spec } = JSON.parse(service) as { spec: { clusterIP: string } };
      return (await fetch(`http://${spec.clusterIP}:8081/metrics`)).text();
    },
  };
}

const LLMPOOL_CRD = `${LLMPOOLS.plural}.${LLMPOOLS.apiVersion.split("/")[0]}`;
