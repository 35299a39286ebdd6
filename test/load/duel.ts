import type { BenchContext, Row } from "./bench.ts";
import { contenders, NGINX } from "./contenders.ts";
import { cpuMicros, splitCores } from "./cpu.ts";
import { makeGenerator } from "./generator.ts";
import { ratios, summarize } from "./samples.ts";
import { findPrograms, type Programs } from "./tools.ts";
import { agentTraffic } from "./traffic.ts";

export interface DuelOptions {
  stream: boolean;
  connections: number;
  secondsPerTurn: number;
  /** Starts the instances, which live in `stack`. */
  startInstances(programs: Programs, cores: string | undefined, stack: AsyncDisposableStack): Promise<Instances>;
}

export interface Instances {
  ports: number[];
  /** How many units of work they have done so far; absent: calls are counted, by the load generator. */
  done?: () => Promise<number>;
}

/** What a contender did in each round: CPU time per unit of work, and units a second. */
export interface Entrant {
  name: string;
  cpuMicros: number[];
  perSecond: number[];
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
  const { ports: instances, done } = await options.startInstances(programs, cores?.others, stack);
  const generate = await makeGenerator(agentTraffic({ stream: options.stream }), dir, programs.wrk);

  const entrants: Entrant[] = [];
  const turns: (() => Promise<void>)[] = [];
  for (const { name, warmupSeconds, start } of contenders(programs.nginx)) {
    const entrant: Entrant = { name, cpuMicros: [], perSecond: [] };
    entrants.push(entrant);
    try {
      const { url, child } = await start({ context, instances, cores: cores?.measured });
      stack.use(child);
      const load = async (seconds: number) => {
        const before = { cpu: cpuMicros(child.pid), done: await done?.() };
        const run = { url, connections: options.connections, seconds, cores: cores?.others, signal };
        const report = await generate(run);
        if (report.errors > 0) throw new Error(`${name}: ${report.errors} of ${report.requests} calls failed`);
        const cpu = cpuMicros(child.pid) - before.cpu;
        const units = before.done === undefined ? report.requests : ((await done?.()) ?? 0) - before.done;
        return { cpu: cpu / units, rate: units / report.seconds };
      };
      await load(warmupSeconds);
      turns.push(async () => {
        const { cpu, rate } = await load(options.secondsPerTurn);
        entrant.cpuMicros.push(cpu);
        entrant.perSecond.push(rate);
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

export function cpuOf(entrants: readonly Entrant[], name: string): number[] {
  return entrants.find((entrant) => entrant.name === name)?.cpuMicros ?? [];
}

/** CPU per unit, the same in units of nginx's, and units a second. */
export function rowsOf(entrants: readonly Entrant[]): Row[] {
  const nginx = cpuOf(entrants, NGINX);
  return entrants.map(({ name, cpuMicros, perSecond, absent }) => {
    if (cpuMicros.length === 0) return { name, values: [undefined, undefined, undefined], note: absent ?? "" };
    const beside = nginx.length > 0 ? summarize(ratios(cpuMicros, nginx)) : undefined;
    return { name, values: [summarize(cpuMicros), beside, summarize(perSecond)] };
  });
}
