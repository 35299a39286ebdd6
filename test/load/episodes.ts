import { Agent, request } from "node:http";
import { join } from "node:path";
import { hasRedis, REDIS_CURE, RedisServer } from "../support/redis.ts";
import type { Bench, BenchContext } from "./bench.ts";
import { freePort } from "./child.ts";
import { cpuMicros, proportionalMemory, splitCores } from "./cpu.ts";
import { startPoolRouter } from "./pool.ts";
import { type Summary, summarize } from "./samples.ts";

const EPISODES = 10_000;
/** How long they are watched: long enough for three heartbeats of each. */
const SECONDS = 70;
/** So many end by their deadline in that time: as many as do when each of the 10,000 takes half an hour. */
const EXPIRING = Math.round((EPISODES * SECONDS) / 1800);
const BEAT_S = 20;
const CONNECTIONS = 16;
const [CORE_LIMIT, MEMORY_LIMIT_MB, BEAT_LIMIT_S] = [5, 200, 1];

interface Watched {
  name: string;
  /** Percent of a core, of the router, and of Redis. */
  core: number[];
  redisCore: number[];
  /** Proportional set size. */
  megabytes: number[];
  /** Seconds by which the gap between two lines of an episode was off, at most. */
  offBeat: number[];
}

/** What 10,000 active episodes cost a router that does nothing else. */
export const episodes: Bench = {
  name: "episodes",
  about: `${EPISODES} active episodes on one router: heartbeats every ${BEAT_S} s and deadlines over ${SECONDS} s, and nothing else`,
  rounds: 1,
  async run(context) {
    const homes = hasRedis ? ["embedded", "Redis"] : ["embedded"];
    const watched = homes.map((name): Watched => ({ name, core: [], redisCore: [], megabytes: [], offBeat: [] }));
    for (let round = 1; round <= context.rounds; round++) {
      context.say(`round ${round} of ${context.rounds}`);
      // Side by side: CPU time and memory are each one's own.
      await Promise.all(watched.map((one) => watch(context, `${one.name}-${round}`, one)));
    }
    const goal = (text: string, samples: number[], limit: number) => {
      const measured = summarize(samples);
      return { text, measured, kept: measured.median <= limit };
    };
    const values = ({ core, redisCore, megabytes, offBeat }: Watched): (Summary | undefined)[] => [
      ...[core, megabytes, offBeat].map(summarize),
      redisCore.length > 0 ? summarize(redisCore) : undefined,
    ];
    return {
      columns: ["% of a core", "MB", "s off the beat", "% of a core, redis-server"],
      rows: [
        ...watched.map((one) => ({ name: one.name, values: values(one) })),
        ...(hasRedis ? [] : [{ name: "Redis", values: [], note: REDIS_CURE }]),
      ],
      goals: watched.flatMap(({ name, core, megabytes, offBeat }) => [
        goal(`${name}: below ${CORE_LIMIT} % of a core`, core, CORE_LIMIT),
        goal(`${name}: below ${MEMORY_LIMIT_MB} MB`, megabytes, MEMORY_LIMIT_MB),
        goal(`${name}: lines every ${BEAT_S} s, give or take ${BEAT_LIMIT_S} s`, offBeat, BEAT_LIMIT_S),
      ]),
    };
  },
};

async function watch({ dir, signal }: BenchContext, name: string, into: Watched): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const server = into.name === "Redis" ? stack.use(await RedisServer.start("--appendfsync", "everysec")) : undefined;
  const port = await freePort();
  const beats = new Beats();
  const child = await startPoolRouter({
    // No instance runs, and none is needed.
    ...{ dir: join(dir, name), port, instances: [await freePort()], flags: [], signal },
    ...{ cores: splitCores()?.measured, redis: server?.url },
    onOutput: (text) => beats.hear(text),
  });
  stack.use(child);
  await child.answers(`http://127.0.0.1:${port}/healthz`);
  await startEpisodes(port, EPISODES, () => 1800);
  await startEpisodes(port, EXPIRING, (i) => 10 + Math.round((i * SECONDS) / EXPIRING));
  await rest(5_000, signal);
  beats.begin();
  const before = { cpu: cpuMicros(child.pid), redis: server ? cpuMicros(server.pid) : 0, at: performance.now() };
  await rest(SECONDS * 1000, signal);
  const micros = (performance.now() - before.at) * 1000;
  into.core.push(((cpuMicros(child.pid) - before.cpu) / micros) * 100);
  if (server) into.redisCore.push(((cpuMicros(server.pid) - before.redis) / micros) * 100);
  into.megabytes.push(proportionalMemory(child.pid) / 1e6);
  into.offBeat.push(beats.offBeat());
}

/** Reads heartbeat lines as they come. */
class Beats {
  readonly #latest = new Map<string, number>();
  readonly #gaps: number[] = [];
  #rest = "";
  #begun = false;

  begin(): void {
    this.#latest.clear();
    this.#begun = true;
  }

  hear(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    if (!this.#begun) return;
    const now = performance.now();
    for (const line of lines) {
      const id = /"event":"episode_heartbeat","episode_id":"([^"]+)"/.exec(line)?.[1];
      if (id === undefined) continue;
      const before = this.#latest.get(id);
      if (before !== undefined) this.#gaps.push((now - before) / 1000);
      this.#latest.set(id, now);
    }
  }

  /** Throws when there were fewer lines than there should have been. */
  offBeat(): number {
    const least = EPISODES * (Math.floor(SECONDS / BEAT_S) - 1);
    if (this.#gaps.length < least) throw new Error(`only ${this.#gaps.length} gaps between lines, not ${least}`);
    return this.#gaps.reduce((most, gap) => Math.max(most, Math.abs(gap - BEAT_S)), 0);
  }
}

async function startEpisodes(port: number, count: number, timeoutSeconds: (i: number) => number): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
  let next = 0;
  const work = async () => {
    for (let i = next++; i < count; i = next++) await startEpisode(agent, port, timeoutSeconds(i));
  };
  await Promise.all(Array.from({ length: CONNECTIONS }, work));
  agent.destroy();
}

function startEpisode(agent: Agent, port: number, timeoutSeconds: number): Promise<void> {
  return new Promise((resolve, reject) => {
    request({ agent, host: "127.0.0.1", port, method: "POST", path: "/v1/episodes" }, (answer) => {
      answer.resume();
      answer.once("end", () => {
        if (answer.statusCode === 201) resolve();
        else reject(new Error(`an episode was answered with ${answer.statusCode}`));
      });
    })
      .once("error", reject)
      .end(JSON.stringify({ timeout_s: timeoutSeconds }));
  });
}

function rest(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason as Error);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal.addEventListener("abort", stop, { once: true });
  });
}
