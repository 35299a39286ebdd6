import type { Bench, Goal, Result } from "./bench.ts";
import { freePort } from "./child.ts";
import { LLMPOOL, NGINX } from "./contenders.ts";
import { duel, type Entrant } from "./duel.ts";
import { instantInstances, startNginx } from "./nginx.ts";
import { ratios, summarize } from "./samples.ts";

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
        return ports;
      },
    });
    return resultOf(entrants);
  },
};

function resultOf(entrants: Entrant[]): Result {
  const of = (name: string) => entrants.find((e) => e.name === name)?.cpuMicrosPerRequest ?? [];
  const nginx = of(NGINX);
  const ours = of(LLMPOOL);
  const goals: Goal[] = [];
  for (const { name, cpuMicrosPerRequest: theirs } of entrants) {
    if (theirs.length === 0 || !/^(vllm|smg)/.test(name)) continue;
    const measured = summarize(ratios(ours, theirs));
    goals.push({ text: `CPU per request below ${name}'s (ratio below 1)`, measured, kept: measured.median < 1 });
  }
  if (nginx.length > 0) {
    const measured = summarize(ratios(ours, nginx));
    goals.push({ text: `at most ${NGINX_LIMIT}x nginx's`, measured, kept: measured.median <= NGINX_LIMIT });
  }
  return {
    columns: ["CPU us/request", "x nginx", "requests/s"],
    rows: entrants.map(({ name, cpuMicrosPerRequest: cpu, requestsPerSecond: rate, absent }) => ({
      name,
      values:
        cpu.length === 0
          ? [undefined, undefined, undefined]
          : [summarize(cpu), nginx.length > 0 ? summarize(ratios(cpu, nginx)) : undefined, summarize(rate)],
      ...(absent !== undefined && { note: absent }),
    })),
    goals,
  };
}
