import type { Bench, Goal } from "./bench.ts";
import { freePort } from "./child.ts";
import { LLMPOOL, NGINX } from "./contenders.ts";
import { cpuOf, duel, rowsOf } from "./duel.ts";
import { instantInstances, startNginx } from "./nginx.ts";
import { ratios, summarize } from "./samples.ts";
import { PEER_NAMES } from "./tools.ts";

const INSTANCES = 5;
/** The most CPU per request, in units of nginx's. */
const NGINX_LIMIT = 4;

/** CPU per request of the router with every feature on, beside others' routers in front of the same instant instances. */
export const router: Bench = {
  name: "router",
  about: "CPU per request in front of instant instances: 2 KB bodies, 32 connections, every feature on",
  rounds: 5,
  async run(context) {
    const entrants = await duel(context, {
      stream: false,
      connections: 32,
      secondsPerTurn: 3,
      async startInstances({ nginx }, cores, stack) {
        if (!nginx) throw new Error("the instant instances need nginx: apt-get install nginx-light");
        const ports = await Promise.all(Array.from({ length: INSTANCES }, freePort));
        const { dir, signal } = context;
        const http = instantInstances(ports);
        const child = stack.use(await startNginx({ nginx, dir, name: "instances", http, cores, signal }));
        await child.answers(`http://127.0.0.1:${ports[0]}/healthz`);
        return { ports };
      },
    });
    const ours = cpuOf(entrants, LLMPOOL);
    const goals = PEER_NAMES.flatMap((peer) =>
      below(`CPU per request below ${peer}'s`, ours, cpuOf(entrants, peer), 1),
    );
    goals.push(...below(`CPU per request at most ${NGINX_LIMIT}x nginx's`, ours, cpuOf(entrants, NGINX), NGINX_LIMIT));
    return { columns: ["CPU us/request", "x nginx", "requests/s"], rows: rowsOf(entrants), goals };
  },
};

/** Nothing when the other did not take part. */
function below(text: string, ours: number[], theirs: number[], limit: number): Goal[] {
  if (theirs.length === 0) return [];
  const measured = summarize(ratios(ours, theirs));
  return [{ text: `${text} (ratio)`, measured, kept: measured.median <= limit }];
}
