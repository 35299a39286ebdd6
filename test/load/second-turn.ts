import type { Bench } from "./bench.ts";
import { longText, type Message, ModelPool } from "./model-pool.ts";
import { ratios, summarize } from "./samples.ts";

const HISTORY_TOKENS = 1_500;
const LIMIT = 0.05;

/** What a warm session is worth: the first token of a second turn beside that of the same history read anew. */
export const secondTurn: Bench = {
  name: "second-turn",
  about: `time to first token on a ${HISTORY_TOKENS}-token history, through router and instance, real model`,
  rounds: 5,
  async run({ rounds, signal, say }) {
    await using pool = await ModelPool.start({ instances: 1, contextTokens: 2048, sessionsPerInstance: 2 });
    const cold: number[] = [];
    const warm: number[] = [];
    for (let round = 0; round < rounds; round++) {
      signal.throwIfAborted();
      say(`round ${round + 1} of ${rounds}`);
      const first: Message[] = [{ role: "user", content: longText(round, HISTORY_TOKENS) }];
      const one = await pool.turn("r0", `s${round}`, first, 8);
      const next: Message[] = [...first, { role: "assistant", content: one.text }, { role: "user", content: "Go on." }];
      const two = await pool.turn("r0", `s${round}`, next, 8);
      cold.push(one.firstTokenMs);
      warm.push(two.firstTokenMs);
    }
    const share = summarize(ratios(warm, cold));
    return {
      columns: ["ms to first token", "x cold"],
      rows: [
        { name: "cold", values: [summarize(cold), summarize(ratios(cold, cold))] },
        { name: "second turn", values: [summarize(warm), share] },
      ],
      goals: [
        { text: `a second turn takes at most ${LIMIT} of a cold one`, measured: share, kept: share.median <= LIMIT },
      ],
    };
  },
};
