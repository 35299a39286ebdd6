import { Agent, request } from "node:http";
import { join } from "node:path";
import { hasRedis, REDIS_CURE, RedisServer } from "../support/redis.ts";
import type { Bench, BenchContext, Goal } from "./bench.ts";
import { freePort } from "./child.ts";
import { splitCores } from "./cpu.ts";
import { instantInstances, startNginx } from "./nginx.ts";
import { startPoolRouter } from "./pool.ts";
import { type Summary, summarize } from "./samples.ts";
import { findPrograms } from "./tools.ts";
import { agentTraffic, type LoadRequest } from "./traffic.ts";

const INSTANCES = 5;
const WARM_UP = 2_000;
const CALLS = 500;
/** What Redis may add to the median call, in milliseconds. */
const LIMIT_MS = 1;

interface Home {
  name: string;
  /** Flags of the redis-server; absent: the embedded store. */
  redis?: string[];
  /** Nothing is counted: no budgets, no session, no episode. */
  bare?: boolean;
}

const BARE = "embedded, no budget";
const EMBEDDED = "embedded";
const REDIS = "Redis, appendfsync everysec";
const HOMES: readonly Home[] = [
  { name: BARE, bare: true },
  { name: EMBEDDED },
  { name: REDIS, redis: ["--appendfsync", "everysec"] },
  // Waits for the disk, whatever that takes.
  { name: "Redis, appendfsync always", redis: ["--appendfsync", "always"] },
];

/** What the store adds to a call: one call at a time, on each router in turn. */
export const store: Bench = {
  name: "store",
  about:
    "median milliseconds of a call in front of instant instances, one at a time, by where the router keeps its state",
  rounds: 7,
  async run(context) {
    const { rounds, say, signal } = context;
    await using stack = new AsyncDisposableStack();
    const cores = splitCores();
    const instances = await startInstances(context, cores?.others, stack);
    const routers: { name: string; send: () => Promise<number>; p50: number[] }[] = [];
    for (const { name, redis, bare = false } of HOMES.filter((home) => hasRedis || !home.redis)) {
      const server = redis && stack.use(await RedisServer.start(...redis));
      const port = await freePort();
      const child = await startPoolRouter({
        ...{ dir: join(context.dir, `${routers.length}`), port, instances, flags: [], cores: cores?.measured, signal },
        redis: server?.url,
        ...(bare && { budgets: {} }),
      });
      stack.use(child);
      await child.answers(`http://127.0.0.1:${port}/readyz`);
      const client = new Client(port, bare ? bareTraffic() : agentTraffic({ stream: false }));
      stack.defer(() => client.close());
      for (let i = 0; i < WARM_UP; i++) await client.call();
      routers.push({ name, send: () => client.call(), p50: [] });
    }
    for (let round = 1; round <= rounds; round++) {
      say(`round ${round} of ${rounds}`);
      for (const { send, p50 } of routers) {
        signal.throwIfAborted();
        const took: number[] = [];
        for (let i = 0; i < CALLS; i++) took.push(await send());
        p50.push(summarize(took).median);
      }
    }
    const of = (name: string) => routers.find((r) => r.name === name)?.p50 ?? [];
    const over = (p50: number[], base: number[]) => summarize(p50.map((ms, round) => ms - (base[round] ?? Number.NaN)));
    return {
      columns: ["ms, median", "over embedded", "over no budget"],
      rows: [
        ...routers.map(({ name, p50 }) => ({
          name,
          values: [summarize(p50), over(p50, of(EMBEDDED)), over(p50, of(BARE))],
        })),
        ...(hasRedis ? [] : [{ name: "Redis", values: [undefined, undefined, undefined], note: REDIS_CURE }]),
      ],
      goals: hasRedis ? [goal(over(of(REDIS), of(BARE)))] : [],
    };
  },
};

function goal(measured: Summary): Goal {
  return { text: `Redis adds at most ${LIMIT_MS} ms to no budget`, measured, kept: measured.median <= LIMIT_MS };
}

async function startInstances(
  { say, dir, signal }: BenchContext,
  cores: string | undefined,
  stack: AsyncDisposableStack,
): Promise<number[]> {
  const { nginx } = await findPrograms(say);
  if (!nginx) throw new Error("the instant instances need nginx: apt-get install nginx-light");
  const ports = await Promise.all(Array.from({ length: INSTANCES }, freePort));
  const http = instantInstances(ports);
  const child = stack.use(await startNginx({ nginx, dir, name: "instances", http, cores, signal }));
  await child.answers(`http://127.0.0.1:${ports[0]}/healthz`);
  return ports;
}

function bareTraffic(): LoadRequest[] {
  return agentTraffic({ stream: false }).map(({ headers, body }) => {
    const { "x-session-id": _session, "x-episode-id": _episode, "x-smg-routing-key": _key, ...rest } = headers;
    return { headers: rest, body };
  });
}

/** One kept-alive connection, one call at a time. */
class Client {
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 });
  readonly #port: number;
  readonly #traffic: LoadRequest[];
  #next = 0;

  constructor(port: number, traffic: LoadRequest[]) {
    this.#port = port;
    this.#traffic = traffic;
  }

  /** Milliseconds from the first byte that leaves to the last one that comes. */
  call(): Promise<number> {
    const { headers, body } = this.#traffic[this.#next++ % this.#traffic.length] ?? { headers: {}, body: "" };
    return new Promise((resolve, reject) => {
      const began = performance.now();
      const path = "/v1/chat/completions";
      const to = { agent: this.#agent, host: "127.0.0.1", port: this.#port, method: "POST", path, headers };
      request(to, (answer) => {
        answer.resume();
        answer.once("end", () => {
          if (answer.statusCode === 200) resolve(performance.now() - began);
          else reject(new Error(`a call was answered with ${answer.statusCode}`));
        });
      })
        .once("error", reject)
        .end(body);
    });
  }

  close(): void {
    this.#agent.destroy();
  }
}
