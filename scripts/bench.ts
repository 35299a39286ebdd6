/**
 * `npm run bench`: what the project promises, measured here and now, side by side with what it is compared to. docs/benchmarks.md explains
 * each. Exit codes: 0 measured, 1 one could not be measured, 2 wrong usage. A goal that is missed is printed, not an error.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, cpus, tmpdir } from "node:os";
import { join } from "node:path";
import type { Bench } from "../test/load/bench.ts";
import { edge } from "../test/load/edge.ts";
import { episodes } from "../test/load/episodes.ts";
import { hangUp } from "../test/load/hang-up.ts";
import { lateness } from "../test/load/lateness.ts";
import { operator } from "../test/load/operator.ts";
import { operatorScale } from "../test/load/operator-scale.ts";
import { queue } from "../test/load/queue.ts";
import { roles } from "../test/load/roles.ts";
import { router } from "../test/load/router.ts";
import { secondTurn } from "../test/load/second-turn.ts";
import { start } from "../test/load/start.ts";
import { store } from "../test/load/store.ts";
import { stream } from "../test/load/stream.ts";
import { formatResult } from "../test/load/table.ts";
import { readOptions } from "./options.ts";

const BENCHES: readonly Bench[] = [
  router,
  stream,
  queue,
  store,
  episodes,
  lateness,
  edge,
  secondTurn,
  roles,
  start,
  hangUp,
  operator,
  operatorScale,
];

const USAGE = `npm run bench -- [NAME...] [options]: measure what the project promises, or only the benches named
  --rounds N    repeat more or less often
  --pools N     make operator-scale larger or smaller
  --seconds N   make operator-scale longer or shorter
  --json        one object a bench
  --list        name the benches`;
const { values: options, positionals: asked } = readOptions(USAGE, {
  rounds: { type: "string" },
  pools: { type: "string" },
  seconds: { type: "string" },
  json: { type: "boolean" },
  list: { type: "boolean" },
});
const unknown = asked.filter((name) => !BENCHES.some((bench) => bench.name === name));
const numberOf = (text: string | undefined) => (text === undefined ? undefined : Number(text));
const [rounds, pools, seconds] = [options.rounds, options.pools, options.seconds].map(numberOf);
const isWrong = (value: number | undefined) => value !== undefined && !(Number.isInteger(value) && value > 0);
if (options.list) {
  for (const { name, about } of BENCHES) console.log(`${name}: ${about}`);
  process.exit(0);
}
if (unknown.length > 0 || [rounds, pools, seconds].some(isWrong)) {
  const names = BENCHES.map((bench) => bench.name).join(", ");
  console.error(
    unknown.length > 0
      ? `no bench ${unknown.join(", ")}; there are ${names}`
      : "--rounds, --pools and --seconds take 1 or more",
  );
  process.exit(2);
}

const stop = new AbortController();
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(name, () => stop.abort(new Error(`stopped by ${name}`)));
}
const say = (line: string) => void process.stderr.write(`${line}\n`);
const machine = { cpu: cpus()[0]?.model ?? "?", cores: availableParallelism(), node: process.version };
if (!options.json) {
  console.log(`${new Date().toISOString()}, ${machine.cpu}, ${machine.cores} cores, Node ${machine.node}`);
}
for (const bench of BENCHES.filter(({ name }) => asked.length === 0 || asked.includes(name))) {
  const dir = await mkdtemp(join(tmpdir(), "llmpool-bench-"));
  try {
    const repeat = rounds ?? bench.rounds;
    const result = await bench.run({
      rounds: repeat,
      pools,
      seconds,
      signal: stop.signal,
      dir,
      say: (l) => say(`${bench.name}: ${l}`),
    });
    if (options.json) {
      const at = new Date().toISOString();
      console.log(JSON.stringify({ bench: bench.name, about: bench.about, at, machine, rounds: repeat, ...result }));
    } else console.log(`\n${bench.name}: ${bench.about}\n${formatResult(result)}`);
  } catch (error) {
    say(`${bench.name}: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 1;
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
  if (stop.signal.aborted) break;
}
