import { Agent, createServer, request } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { hasRedis, REDIS_CURE, RedisServer } from "../support/redis.ts";
import type { Bench, BenchContext } from "./bench.ts";
import { freePort } from "./child.ts";
import { splitCores } from "./cpu.ts";
import { startPoolRouter } from "./pool.ts";
import { summarize } from "./samples.ts";

const EPISODES = 100;
/** Each lasts for so long, and they begin one after another, so that they end apart too. */
const [TIMEOUT_S, APART_MS] = [3, 30];
/** The instances here compute nothing, so a chunk of prefill takes no time. */
const LIMIT_MS = 50;

/** How late a running call hears that its episode's deadline has come, beside timers of this process for the same instants. */
export const lateness: Bench = {
  name: "lateness",
  about: `milliseconds from an episode's deadline until its call ends, p99 of ${EPISODES}; instances that never answer`,
  rounds: 3,
  async run(context) {
    const { rounds, say, signal } = context;
    await using stack = new AsyncDisposableStack();
    const homes: { name: string; port: number; late: number[]; over: number[] }[] = [];
    const silent = stack.use(await startSilent());
    for (const name of hasRedis ? ["embedded", "Redis"] : ["embedded"]) {
      const server = name === "Redis" ? stack.use(await RedisServer.start("--appendfsync", "everysec")) : undefined;
      const port = await freePort();
      const child = await startPoolRouter({
        ...{ dir: join(context.dir, name), port, instances: [silent.port], flags: [], signal },
        ...{ cores: splitCores()?.measured, redis: server?.url },
      });
      stack.use(child);
      await child.answers(`http://127.0.0.1:${port}/readyz`);
      homes.push({ name, port, late: [], over: [] });
    }
    const idle: number[] = [];
    for (let round = 1; round <= rounds; round++) {
      for (const { name, port, late, over } of homes) {
        signal.throwIfAborted();
        say(`${name}, round ${round} of ${rounds}`);
        const measured = await measure(port, context);
        late.push(p99(measured.calls));
        idle.push(p99(measured.timers));
        over.push(p99(measured.calls) - p99(measured.timers));
      }
    }
    return {
      columns: ["ms late, p99", "over a timer"],
      rows: [
        { name: "a timer of an idle process", values: [summarize(idle), undefined] },
        ...homes.map(({ name, late, over }) => ({ name, values: [summarize(late), summarize(over)] })),
        ...(hasRedis ? [] : [{ name: "Redis", values: [], note: REDIS_CURE }]),
      ],
      goals: homes.map(({ name, over }) => {
        const measured = summarize(over);
        return { text: `${name}: at most ${LIMIT_MS} ms over a timer`, measured, kept: measured.median <= LIMIT_MS };
      }),
    };
  },
};

/** Lateness of each call and of a timer beside it, in milliseconds. */
async function measure(port: number, { signal }: BenchContext): Promise<{ calls: number[]; timers: number[] }> {
  const agent = new Agent({ keepAlive: true });
  const timers: number[] = [];
  const calls: Promise<number>[] = [];
  for (let i = 0; i < EPISODES; i++) {
    signal.throwIfAborted();
    // The episode began when the router had the call, which is later than now: what is measured is no less than the truth.
    const deadline = performance.now() + TIMEOUT_S * 1000;
    const id = `late-${port}-${Math.round(deadline * 1000)}`;
    await send(agent, port, "/v1/episodes", { id, timeout_s: TIMEOUT_S }, {}, 201);
    const body = { model: "planner", messages: [{ role: "user", content: "hi" }], max_tokens: 8 };
    calls.push(
      send(agent, port, "/v1/chat/completions", body, { "x-episode-id": id }, 504).then((at) => at - deadline),
    );
    setTimeout(() => timers.push(performance.now() - deadline), deadline - performance.now());
    await new Promise((resolve) => setTimeout(resolve, APART_MS));
  }
  const late = await Promise.all(calls);
  agent.destroy();
  return { calls: late, timers };
}

/** Resolves with the instant at which the answer began. Rejects when it is not of that status. */
function send(
  agent: Agent,
  port: number,
  path: string,
  body: object,
  headers: Record<string, string>,
  status: number,
): Promise<number> {
  return new Promise((resolve, reject) => {
    request({ agent, host: "127.0.0.1", port, method: "POST", path, headers }, (answer) => {
      const at = performance.now();
      let text = "";
      answer.setEncoding("utf8").on("data", (part: string) => {
        text += part;
      });
      answer.once("end", () => {
        if (answer.statusCode === status) resolve(at);
        else reject(new Error(`${path} was answered with ${answer.statusCode}: ${text}`));
      });
    })
      .once("error", reject)
      .end(JSON.stringify(body));
  });
}

/** An instance that is ready and never answers a call. */
async function startSilent(): Promise<AsyncDisposable & { port: number }> {
  const server = createServer((req, res) => {
    if (req.url?.startsWith("/v1/")) return;
    const record = req.url?.startsWith("/internal/");
    res.writeHead(record ? 404 : 200, { "content-type": "application/json" });
    res.end('{"id":"0","boot":"silent","uptime_s":1000000}');
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function p99(samples: readonly number[]): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.ceil(sorted.length * 0.99) - 1] ?? Number.NaN;
}
