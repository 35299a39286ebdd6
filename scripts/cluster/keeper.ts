/**
 * `keeper.ts HOME`: a process of a running cluster, which is told as JSON. Gives claims their volumes, and ends the cluster when the last process that holds it has
 * died, however that happened.
 */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { holders } from "./holders.ts";
import type { Home } from "./home.ts";
import { apiOf, clean, runningCluster } from "./lifecycle.ts";
import { provision } from "./volumes.ts";

const home = JSON.parse(process.argv[2] ?? "") as Home;
void volumes();
while ((await holders(home.run)).length > 0 || !(await clean(home, () => {}))) await sleep(300);
process.exit(0);

async function volumes(): Promise<void> {
  for (;;) {
    const facts = await runningCluster(home);
    if (facts) return provision(apiOf(home, facts), join(home.run, "volumes"));
    await sleep(300);
  }
}
