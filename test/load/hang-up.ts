import type { Bench } from "./bench.ts";
import { longText, type Message, ModelPool } from "./model-pool.ts";
import { summarize } from "./samples.ts";

/** The longest chunk of prefill, and what may come on top, in milliseconds. */
const LIMIT_MS = 200 + 50;
const TIMEOUT_S = 1;

/** How long a slot stays taken after its caller is gone or its time is over. */
export const hangUp: Bench = {
  name: "hang-up",
  about: "milliseconds from a hang-up, or from an expired timeout, until the slot is free, real model",
  rounds: 5,
  async run({ rounds, signal, say }) {
    await using pool = await ModelPool.start({ instances: 1, contextTokens: 4096, sessionsPerInstance: 1 });
    const [prefill, decode, deadline]: [number[], number[], number[]] = [[], [], []];
    for (let round = 0; round < rounds; round++) {
      signal.throwIfAborted();
      say(`round ${round + 1} of ${rounds}`);
      const inPrefill = async () => {
        await running(pool);
        await rest(300);
      };
      const inDecode = async (ask: Promise<Response>) => {
        await (await ask).body?.getReader().read();
      };
      prefill.push(await hangUpAfter(pool, `p${round}`, longText(3 * round, 2_500), inPrefill));
      decode.push(await hangUpAfter(pool, `d${round}`, "Write a long story.", inDecode));
      const began = performance.now();
      const messages: Message[] = [{ role: "user", content: longText(3 * round + 1, 2_500) }];
      const answer = await pool.send("r0", `t${round}`, messages, 64, {
        headers: { "x-request-timeout": String(TIMEOUT_S) },
      });
      await answer.text();
      await free(pool);
      deadline.push(Math.max(0, performance.now() - began - TIMEOUT_S * 1000));
    }
    const rows = {
      "hang-up while the prompt is read": prefill,
      "hang-up between tokens": decode,
      "timeout while the prompt is read": deadline,
    };
    return {
      columns: ["ms until free"],
      rows: Object.entries(rows).map(([name, samples]) => ({ name, values: [summarize(samples)] })),
      goals: Object.entries(rows).map(([name, samples]) => {
        const measured = summarize(samples);
        return { text: `${name}: at most ${LIMIT_MS} ms`, measured, kept: measured.median <= LIMIT_MS };
      }),
    };
  },
};

/** Hangs up once `when` resolves, and measures until nothing runs. */
async function hangUpAfter(
  pool: ModelPool,
  session: string,
  content: string,
  when: (ask: Promise<Response>) => Promise<unknown>,
): Promise<number> {
  const abort = new AbortController();
  const ask = pool.send("r0", session, [{ role: "user", content }], 512, { signal: abort.signal });
  ask.catch(() => {});
  await when(ask);
  const began = performance.now();
  abort.abort();
  await free(pool);
  return performance.now() - began;
}

async function running(pool: ModelPool): Promise<void> {
  while (!(await pool.instances()).some((i) => i.running > 0)) await rest(2);
}

async function free(pool: ModelPool): Promise<void> {
  while ((await pool.instances()).some((i) => i.running > 0)) await rest(2);
}

function rest(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
