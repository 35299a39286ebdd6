import { LLMPOOLS } from "../../operator/kinds.ts";
import { command } from "../../scripts/cluster/command.ts";
import { clusterForRun } from "../../scripts/cluster/for-tests.ts";
import { release } from "../../scripts/cluster/lifecycle.ts";
import { lock } from "../../scripts/cluster/lock.ts";
import { Client } from "../../src/kube/client.ts";
import { Connection } from "../../src/kube/connection.ts";
import { fromKubeconfig } from "../../src/kube/kubeconfig.ts";
import { RESOURCES } from "../../src/kube/resource.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { type Call, recordWrites } from "../support/audit.ts";
import { eventually } from "../support/eventually.ts";
import { fakeNode } from "../support/fake-nodes.ts";
import { CRD, FAKE_H100 } from "../support/scaled.ts";
import type { BenchContext } from "./bench.ts";

const HANG_MS = 600_000;

export interface FakeCluster {
  kubeconfig: string;
  /** Says `bench` of itself. */
  client: Client;
  /** Every write from now on, whoever makes it. */
  recordWrites(): Promise<() => Promise<Call[]>>;
  /** A new namespace. */
  namespace(): Promise<string>;
  /** Removes all that runs in a namespace, and it; resolves when nothing of it is left. */
  empty(namespace: string): Promise<void>;
}

/** The LLMPool kind and so many fake nodes with 8 H100 each, on a cluster of ours; all of it goes when the stack is disposed of. */
export async function fakeCluster(
  stack: AsyncDisposableStack,
  nodes: number,
  { say, signal }: Pick<BenchContext, "say" | "signal">,
): Promise<FakeCluster> {
  const { home, facts, lacking } = await clusterForRun(process.env, process.pid, say);
  stack.defer(() => release(home, process.pid, say));
  if (facts?.auditLog === undefined) throw new Error(`needs a cluster of its own: ${lacking}`);
  const { kubeconfig, programs, auditLog } = facts;
  const turn = await lock(`${home.run}.tests.lock`, () => say("tests use the cluster; waiting for them to end"));
  stack.defer(() => turn.close());
  const kubectl = (args: string[], input = "") =>
    command(programs.kubectl, ["--kubeconfig", kubeconfig, ...args], { input });

  const credentials = fromKubeconfig(kubeconfig);
  const connection = stack.use(new Connection({ credentials, clock: systemClock, userAgent: "bench" }));
  const client = new Client({ connection, clock: systemClock, resources: [LLMPOOLS] });
  stack.defer(async () => {
    await kubectl(["delete", "--filename", CRD, "--ignore-not-found"]);
  });
  await kubectl(["apply", "--server-side", "--force-conflicts", "--filename", CRD]);
  await eventually("the LLMPool kind is served", () =>
    kubectl(["wait", "--for=condition=Established", "--filename", CRD]),
  );
  const names = Array.from({ length: nodes }, (_, i) => `bench-${i}`);
  const items = names.map((name) => fakeNode(name, { count: 1, ...FAKE_H100 }));
  stack.defer(async () => {
    await kubectl(["delete", "nodes", "--ignore-not-found", ...names]);
  });
  await kubectl(["create", "--filename", "-"], JSON.stringify({ apiVersion: "v1", kind: "List", items }));

  let made = 0;
  const empty = async (namespace: string) => {
    if (signal.aborted) say("removes what it made");
    // A pool's objects go with it.
    for (const resource of [LLMPOOLS, RESOURCES.statefulSets, RESOURCES.deployments])
      await kubectl(["delete", resource.plural, "--all", "--namespace", namespace, "--wait=false"]);
    // Without waiting for the garbage collector, which takes some ten a second.
    const path = `/api/v1/namespaces/${namespace}/pods`;
    await eventually(
      "its pods are gone",
      async () => {
        await client.request("DELETE", path, { query: { gracePeriodSeconds: 0 } });
        const { items } = await client.list(RESOURCES.pods, { namespace });
        return items.length === 0;
      },
      HANG_MS,
    );
    // Of what is still on its way out operators hear too.
    await kubectl(["delete", "namespace", namespace, "--ignore-not-found"]);
  };
  return {
    kubeconfig,
    client,
    recordWrites: () => recordWrites(auditLog),
    async namespace() {
      const name = `bench-${process.pid}-${made++}`;
      await kubectl(["create", "namespace", name]);
      stack.defer(async () => {
        await kubectl(["delete", "namespace", name, "--ignore-not-found"]);
      });
      return name;
    },
    empty,
  };
}
