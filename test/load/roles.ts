import type { Bench } from "./bench.ts";
import { longText, type Message, ModelPool } from "./model-pool.ts";
import { summarize } from "./samples.ts";

const ROLES = 5;
const TURNS = 4;
const FIRST_TOKENS = 600;
const LIMIT = 0.95;

/** Five agents at once: how much of what they send is warm after their first turn. */
export const roles: Bench = {
  name: "roles",
  about: `${ROLES} roles, ${TURNS} turns each, at once, real model: cached share of the prompt tokens after the first turn`,
  rounds: 2,
  async run({ rounds, signal, say }) {
    await using pool = await ModelPool.start({ instances: ROLES, contextTokens: 2048, sessionsPerInstance: 2 });
    const shares: number[] = [];
    for (let round = 0; round < rounds; round++) {
      signal.throwIfAborted();
      say(`round ${round + 1} of ${rounds}`);
      const all = await Promise.all(
        Array.from({ length: ROLES }, (_, i) => conversation(pool, `r${i}`, round * ROLES + i)),
      );
      const sum = (pick: (turn: { prompt: number; cached: number }) => number) =>
        all.flat().reduce((s, t) => s + pick(t), 0);
      shares.push(sum((t) => t.cached) / sum((t) => t.prompt));
    }
    const measured = summarize(shares);
    return {
      columns: ["cached share"],
      rows: [{ name: `${ROLES} roles`, values: [measured] }],
      goals: [{ text: `at least ${LIMIT} of the prompt tokens are cached`, measured, kept: measured.median >= LIMIT }],
    };
  },
};

async function conversation(
  pool: ModelPool,
  role: string,
  seed: number,
): Promise<{ prompt: number; cached: number }[]> {
  let messages: Message[] = [{ role: "user", content: longText(seed, FIRST_TOKENS) }];
  const later: { prompt: number; cached: number }[] = [];
  for (let turn = 0; turn < TURNS; turn++) {
    const { text, usage } = await pool.turn(role, `s${seed}`, messages, 16);
    messages = [...messages, { role: "assistant", content: text }, { role: "user", content: "Go on, please." }];
    if (turn > 0) later.push({ prompt: usage.prompt_tokens, cached: usage.prompt_tokens_details.cached_tokens });
  }
  return later;
}
