/** Holds the cluster of `LLMPOOL_TEST_CLUSTER` as a run of the tests does, until it is killed. Says `up` when it is there. */
import { clusterHome } from "../../scripts/cluster/home.ts";
import { acquire } from "../../scripts/cluster/lifecycle.ts";
import { whyNoNode } from "../../scripts/cluster/node-needs.ts";

const { env } = process;
const withNode = whyNoNode(env) === undefined;
await acquire({ home: clusterHome(env), env, withNode, holder: process.pid, say: () => {} });
console.log("up");
setInterval(() => {}, 60_000);
