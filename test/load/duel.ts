import type { BenchContext } from "./bench.ts";
import { contenders } from "./contenders.ts";
import { cpuMicros, splitCores } from "./cpu.ts";
import { makeGenerator } from "./generator.ts";
import { findPrograms, type Programs } from "./tools.ts";
import { agentTraffic } from "./traffic.ts";

export interface DuelOptions {
  stream: boolean;
  connections: number;
  secondsPerTurn: number;
  /** Starts the instances, which live in `stack`; resolves with their ports. */
  startInstances(programs: Programs, cores: string | undefined, stack: AsyncDisposableStack): Promise<number[]>;
}

/** What each contender did in each round. */
export interface Entrant {
  name: string;
  cpuMicrosPerRequest: number[];
  requestsPerSecond: number[];
  /** Why it took no part. */
  absent?: string;
}

/**
 * Puts the same load on every router in turn, round after round, and reads how much CPU time each spent. All of them run all the time, on
 * a core that is theirs; generator and instances have the other cores.
 */
export async function duel(context: BenchContext, options: DuelOptions): Promise<Entrant[]> {
  const { say, signal, dir, rounds } = context;
  await using stack = new AsyncDisposableStack();
  const programs = await findPrograms(say);
  for (const line of programs.missing) say(line);
  const cores = splitCores();
  if (!cores) say("one core, or no taskset: load and routers share it");
  const instances = await options.startInstances(programs, cores?.others, stack);
  const generate = await makeGenerator(agentTraffic({ stream: options.stream }), dir, programs.wrk);

  const entrants: Entrant[] = [];
  const turns: (() => Promise<void>)[] = [];
  for (const { name, warmupSeconds, start } of contenders(programs.nginx)) {
    const entrant: Entrant = { name, cpuMicrosPerRequest: [], requestsPerSecond: [] };
    entrants.push(entrant);
    try {
      const { url, child } = await start({ context, instances, cores: cores?.measured });
      stack.use(child);
      const load = async (seconds: number) => {
        const before = cpuMicros(child.pid);
        const run = { url, connections: options.connections, seconds, cores: cores?.others, signal };
        const report = await generate(run);
        if (report.errors > 0) throw new Error(`${name}: ${report.errors} of ${report.requests} calls failed`);
        return { cpu: (cpuMicros(child.pid) - before) / report.requests, rate: report.requests / report.seconds };
      };
      await load(warmupSeconds);
      turns.push(async () => {
        const { cpu, rate } = await load(options.secondsPerTurn);
        entrant.cpuMicrosPerRequest.push(cpu);
        entrant.requestsPerSecond.push(rate);
      });
    } catch (error) {
      signal.throwIfAborted();
      entrant.absent = error instanceof Error ? error.message : String(error);
    }
  }
  for (let round = 1; round <= rounds; round++) {
    say(`round ${round} of ${rounds}`);
    for (const turn of turns) await turn();
  }
  return entrants;
}
