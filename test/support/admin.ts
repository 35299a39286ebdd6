import { onTestFinished } from "vitest";
import { LLMPOOLS } from "../../operator/kinds.ts";
import { Client } from "../../src/kube/client.ts";
import { Connection } from "../../src/kube/connection.ts";
import { fromKubeconfig } from "../../src/kube/kubeconfig.ts";
import { systemClock } from "../../src/lib/clock.ts";
import type { TestCluster } from "./cluster.ts";

/** A client of the cluster's administrator, of our own kind too; closed when the test ends. For tests that call often: each kubectl is a process. */
export function adminClient(cluster: TestCluster, credentials = fromKubeconfig(cluster.kubeconfig)): Client {
  const connection = new Connection({ credentials, clock: systemClock, userAgent: "llmpool-test" });
  onTestFinished(() => connection.close());
  return new Client({ connection, clock: systemClock, resources: [LLMPOOLS] });
}
