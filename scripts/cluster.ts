/**
 * `npm run cluster up|down|status`: the Kubernetes that the tests run on, kept up for work by hand. `up --node` adds a real node (root, Linux),
 * `programs` only fetches or builds what it takes.
 */
import { BY_HAND, holders } from "./cluster/holders.ts";
import { clusterHome } from "./cluster/home.ts";
import { acquire, clean, down, runningCluster } from "./cluster/lifecycle.ts";
import { CONTROL_PLANE, NODE } from "./cluster/modules.ts";
import { whyNoNode } from "./cluster/node-needs.ts";
import { startedIn } from "./cluster/processes.ts";
import { findPrograms, Unavailable } from "./cluster/programs.ts";

const say = (line: string) => console.log(line);
const home = clusterHome(process.env);
const [command, ...options] = process.argv.slice(2);
const env = options.includes("--node") ? { ...process.env, LLMPOOL_TEST_NODE: "1" } : process.env;

try {
  if (command === "up" && options.every((o) => o === "--node")) await up();
  else if (command === "down" && options.length === 0) await down(home, say);
  else if (command === "status" && options.length === 0) await status();
  else if (command === "programs" && options.length === 0) await programs();
  else {
    console.error("usage: npm run cluster up [--node] | down | status | programs");
    process.exitCode = 2;
  }
} catch (error) {
  if (!(error instanceof Unavailable)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}

async function up(): Promise<void> {
  const reason = whyNoNode(env);
  if (reason !== undefined && options.includes("--node")) throw new Unavailable(`no node: ${reason}`);
  const facts = await acquire({ home, env, withNode: reason === undefined, holder: BY_HAND, say });
  console.log(`up, ${facts.node ? "with a real node" : "without a node"}; end it with: npm run cluster down`);
  console.log(`export KUBECONFIG=${facts.kubeconfig}`);
  console.log(`alias kubectl=${facts.programs.kubectl} helm=${facts.programs.helm}`);
}

async function status(): Promise<void> {
  if (await clean(home, say)) console.log("removed what an earlier cluster has left");
  const facts = await runningCluster(home);
  if (!facts) {
    console.log("down");
    return;
  }
  console.log(
    `up at ${facts.server}, ${facts.node ? `node ${facts.node.name}` : "no node"}, KUBECONFIG=${facts.kubeconfig}`,
  );
  console.log(
    `held by ${(await holders(home.run)).map((name) => (name === BY_HAND ? "hand" : `process ${name.split("-")[0]}`)).join(", ")}`,
  );
  for (const { pid, name } of startedIn(home.run)) console.log(`${String(pid).padStart(8)}  ${name}`);
}

async function programs(): Promise<void> {
  const names = whyNoNode(env) === undefined ? [...CONTROL_PLANE, ...NODE] : CONTROL_PLANE;
  for (const [name, file] of Object.entries(await findPrograms(names, { cache: home.cache, env, say })))
    console.log(`${name}: ${file}`);
}
