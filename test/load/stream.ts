import { fileURLToPath } from "node:url";
import type { Bench } from "./bench.ts";
import { Child, freePort } from "./child.ts";
import { LLMPOOL } from "./contenders.ts";
import { cpuOf, duel, rowsOf } from "./duel.ts";
import { summarize } from "./samples.ts";

const INSTANCES = 5;
const CHUNKS = 50;
const GAP_MS = 5;
/** The most CPU of the router per streamed chunk, in microseconds. */
const LIMIT_US = 60;

/** CPU per relayed chunk of a stream; what a request costs besides is spread over its chunks. */
export const stream: Bench = {
  name: "stream",
  about: `CPU per streamed chunk: ${CHUNKS} chunks a request, ${GAP_MS} ms apart, 20 streams at once`,
  rounds: 4,
  async run(context) {
    const entrants = await duel(context, {
      stream: true,
      // As many as run at once: with more, the router's queue would make some wait, and the rates no longer compare.
      connections: 20,
      secondsPerTurn: 3,
      async startInstances(_programs, cores, stack) {
        const ports = await Promise.all(Array.from({ length: INSTANCES }, freePort));
        const main = fileURLToPath(new URL("./sse-instances-main.ts", import.meta.url));
        const args = [main, String(CHUNKS), String(GAP_MS), ...ports.map(String)];
        const child = new Child({ file: process.execPath, args, cores, signal: context.signal });
        stack.use(child);
        const url = `http://127.0.0.1:${ports[0]}`;
        await child.answers(`${url}/healthz`);
        const done = async () => ((await (await fetch(`${url}/chunks`)).json()) as { sent: number }).sent;
        return { ports, done };
      },
    });
    const ours = summarize(cpuOf(entrants, LLMPOOL));
    return {
      columns: ["CPU us/chunk", "x nginx", "chunks/s"],
      rows: rowsOf(entrants),
      goals: [{ text: `at most ${LIMIT_US} us of CPU per chunk`, measured: ours, kept: ours.median <= LIMIT_US }],
    };
  },
};
