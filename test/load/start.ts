import { readFileSync } from "node:fs";
import { availableCpus } from "../../src/lib/cpus.ts";
import type { Bench } from "./bench.ts";
import { KV_BYTES_PER_TOKEN, ModelPool } from "./model-pool.ts";
import { ratios, summarize } from "./samples.ts";

const MANY = 5;
const SETTINGS = { contextTokens: 1024, sessionsPerInstance: 1 };
const MEMORY_LIMIT_MB = 100;

/** What further instances cost: time until all are ready, and memory, of which weights are shared. */
export const start: Bench = {
  name: "start",
  about: `${MANY} llama.cpp instances beside one: time from the start of llmpool dev to ready, and memory (proportional set size)`,
  rounds: 3,
  async run({ rounds, signal, say }) {
    const one: number[] = [];
    const many: number[] = [];
    const extraMb: number[] = [];
    for (let round = 0; round < rounds; round++) {
      signal.throwIfAborted();
      say(`round ${round + 1} of ${rounds}`);
      const single = await measure(1);
      const several = await measure(MANY);
      one.push(single.ms);
      many.push(several.ms);
      const kv = SETTINGS.contextTokens * SETTINGS.sessionsPerInstance * KV_BYTES_PER_TOKEN;
      extraMb.push(((several.bytes - single.bytes) / (MANY - 1) - kv) / 1e6);
    }
    const cores = availableCpus();
    const limit = (1.3 * MANY) / cores;
    const times = summarize(ratios(many, one));
    const memory = summarize(extraMb);
    return {
      columns: ["ms to ready", "x one"],
      rows: [
        { name: "1 instance", values: [summarize(one), summarize(ratios(one, one))] },
        { name: `${MANY} instances`, values: [summarize(many), times] },
        { name: "each further instance, MB beside its KV cache", values: [memory, undefined] },
      ],
      goals: [
        {
          text: `${MANY} ready in at most 1.3 x (${MANY} / ${cores} cores) = ${limit} of the time of one`,
          measured: times,
          kept: times.median <= limit,
        },
        {
          text: `each further instance takes at most ${MEMORY_LIMIT_MB} MB beside its KV cache`,
          measured: memory,
          kept: memory.median <= MEMORY_LIMIT_MB,
        },
      ],
    };
  },
};

async function measure(instances: number): Promise<{ ms: number; bytes: number }> {
  const began = performance.now();
  await using pool = await ModelPool.start({ instances, ...SETTINGS });
  const ms = performance.now() - began;
  let bytes = 0;
  for (const { pid } of await pool.instances()) bytes += proportionalBytes(pid ?? 0);
  return { ms, bytes };
}

function proportionalBytes(pid: number): number {
  const kilobytes = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1];
  return Number(kilobytes) * 1024;
}
