import { InstanceQueue, type Slot } from "../../src/core/queue.ts";
import { Speed } from "../../src/core/speed.ts";
import { systemClock } from "../../src/lib/clock.ts";
import type { Bench } from "./bench.ts";
import { ratios, summarize } from "./samples.ts";

const FLOWS = [10, 100, 1000] as const;
const REQUESTS = 20_000;
/** Most that a request may cost among a thousand flows, in units of what it costs among ten. */
const LIMIT = 4;

/** What the line of an instance costs a request, in this process. */
export const queue: Bench = {
  name: "queue",
  about: "CPU microseconds of a request in the line of an instance (come, wait, start, end), by how many flows wait",
  rounds: 7,
  async run({ rounds, signal }) {
    const costs = FLOWS.map((flows) => ({ flows, micros: [] as number[] }));
    await cost(1000);
    for (let round = 0; round < rounds; round++) {
      signal.throwIfAborted();
      for (const { flows, micros } of costs) micros.push(await cost(flows));
    }
    const least = costs[0]?.micros ?? [];
    const measured = summarize(ratios(costs.at(-1)?.micros ?? [], least));
    return {
      columns: ["us/request", `x ${FLOWS[0]} flows`],
      rows: costs.map(({ flows, micros }) => ({
        name: `${flows} flows`,
        values: [summarize(micros), summarize(ratios(micros, least))],
      })),
      goals: [
        { text: `1000 flows at most ${LIMIT} x of ${FLOWS[0]} (ratio)`, measured, kept: measured.median <= LIMIT },
      ],
    };
  },
};

/** One request of each flow waits, always; a slot that falls free is taken, and its flow asks again. */
async function cost(flows: number): Promise<number> {
  const line = new InstanceQueue("0", { clock: systemClock, speed: new Speed() }, { slots: 4, waiting: 2 * flows });
  const running: Slot[] = [];
  let asked = 0;
  const ask = () => {
    const { slot } = line.enqueue({
      flow: `f${asked % flows}`,
      deadline: systemClock.now() + 1e6 + ((asked++ * 7919) % 1000),
      deadlineCode: "request_timeout",
      prefillTokens: 0,
    });
    void slot.then((got) => running.push(got)).catch(() => {});
  };
  for (let i = 0; i < flows + 4; i++) ask();
  await null;
  const before = process.cpuUsage();
  for (let i = 0; i < REQUESTS; i++) {
    ask();
    running.shift()?.release();
    await null;
  }
  const { user, system } = process.cpuUsage(before);
  line.close();
  return (user + system) / REQUESTS;
}
