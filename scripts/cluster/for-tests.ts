import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { clusterHome, type Env, type Home } from "./home.ts";
import { acquire, type Say } from "./lifecycle.ts";
import { whyNoNode } from "./node-needs.ts";
import { findPrograms, Unavailable } from "./programs.ts";
import type { ClusterFacts } from "./start-all.ts";

/** A Kubernetes as the tests see it: the user's own has no audit log and no node that takes our images. */
export type TestFacts = Pick<ClusterFacts, "kubeconfig" | "programs"> & Partial<ClusterFacts>;

export interface ForTests {
  home: Home;
  /** Undefined when none can be had. */
  facts: TestFacts | undefined;
  /** What would bring what is not there: a cluster, a cluster of our own, or a node. */
  lacking: string;
}

/** The cluster of `KUBECONFIG`, else ours, which is started if need be and stays while the process `holder` lives. */
export async function clusterForRun(env: Env, holder: number, say: Say): Promise<ForTests> {
  const home = clusterHome(env);
  const { KUBECONFIG: kubeconfig } = env;
  try {
    // A shell in which someone works with our cluster by hand names that one.
    if (kubeconfig && kubeconfig !== join(home.run, "admin.kubeconfig")) {
      const facts = { kubeconfig, programs: await ownTools(home, env, say) };
      return { home, facts, lacking: "unset KUBECONFIG, which names another cluster" };
    }
    const noNode = whyNoNode(env);
    const facts = await acquire({ home, env, withNode: noNode === undefined, holder, say });
    return { home, facts, lacking: noNode ?? "end the running cluster, which has none, by npm run cluster down" };
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    return { home, facts: undefined, lacking: error.message };
  }
}

/** On a cluster of the user's, the user's own kubectl and helm fit best. */
async function ownTools(home: Home, env: Env, say: Say): Promise<TestFacts["programs"]> {
  const dirs = (env.PATH ?? "").split(delimiter);
  const find = async (name: "kubectl" | "helm") =>
    dirs.map((dir) => join(dir, name)).find(existsSync) ??
    (await findPrograms([name], { cache: home.cache, env, say }))[name];
  return { kubectl: await find("kubectl"), helm: await find("helm") };
}
