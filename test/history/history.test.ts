import { afterAll, describe, expect, test } from "vitest";
import { hasRedis, REDIS_CURE } from "../support/redis.ts";
import { check, story } from "./checker.ts";
import { MUTANTS, SCRIPT_MUTANTS } from "./mutants.ts";
import { Nursery } from "./processes.ts";
import { type Outcome, run } from "./run.ts";

/** `LLMPOOL_SEED=7` runs one history alone, `LLMPOOL_SEED=7,8` two. */
const given = process.env.LLMPOOL_SEED;
const seeds = given === undefined ? Array.from({ length: 20 }, (_, i) => i + 1) : given.split(",").map(Number);
/** Longer than a router is given up after, and asked for what it left, on a busy machine. */
const SETTLE_MS = 90_000;
/** Of a mutant, what is open stays open: nothing breaks, so all that can be settled is at once. */
const MUTANT_SETTLE_MS = 3_000;

/** What the checker has to say of each mutant, so that none is found for something that has nothing to do with it. */
const FOUND: Readonly<Record<string, RegExp>> = {
  "settle skipped": /is still reserved at the end/,
  "settled twice": /_again was charged [1-9]\d* .*, and the engines counted 0/,
  "settled by nobody's count": /was charged \d+ .*, and the engines counted [1-9]/,
  "reserved late": /was dispatched without a reservation/,
  "reserved too little": /was dispatched with a limit of \d+, and \d+ were reserved/,
  "extended with each report": /was extended \d+ ms before its deadline, and its window is \d+ ms/,
  "reserved in one budget of several": /was not reserved in b:/,
};

const nursery = new Nursery();
afterAll(() => nursery[Symbol.asyncDispose]());

/** One run at a time loads the machine; while one settles what is open, which is mostly waiting, the next one begins. */
let last: Promise<void> = Promise.resolve();
async function turn(): Promise<() => void> {
  const before = last;
  const { promise, resolve } = Promise.withResolvers<void>();
  last = promise;
  await before;
  return resolve;
}

/** What is wrong, each with its story; the seed comes first. */
function verdict(seed: number, { history, logs }: Outcome): string {
  const problems = check(history);
  if (problems.length === 0) return "";
  const told = problems
    .slice(0, 3)
    .map(({ about, text }) => [`${about} ${text}`, ...story(history, about)].join("\n  "));
  const more = problems.slice(3, 20).map(({ about, text }) => `${about} ${text}`);
  return [
    `LLMPOOL_SEED=${seed}: ${problems.length} problems`,
    ...told,
    ...more,
    process.env.LLMPOOL_LOGS ? logs.join("\n") : "",
  ].join("\n");
}

describe.skipIf(!hasRedis)(
  hasRedis ? "histories of three routers" : `histories (${REDIS_CURE})`,
  { timeout: 600_000 },
  () => {
    let answered = 0;
    let extended = 0;
    const runs = new Map<number, Promise<Outcome>>();
    const start = (seed: number) => {
      const one = run({ seed, nursery, settleMs: SETTLE_MS, turn });
      one.catch(() => {});
      runs.set(seed, one);
      return one;
    };

    test.each(seeds)("seed %i", async (seed) => {
      // This one, and the next, so that it loads the machine while this one settles.
      const one = runs.get(seed) ?? start(seed);
      const next = seeds[seeds.indexOf(seed) + 1];
      if (next !== undefined && !runs.has(next)) void start(next);
      const outcome = await one;
      expect(verdict(seed, outcome)).toBe("");
      answered += outcome.history.calls.filter(({ ending }) => ending.kind === "answered").length;
      extended += outcome.history.entries.filter((e) => e.kind === "deadline" && e.extensions > 0).length;
    });

    // Three routers that deny everything keep every rule; in a single run they may, while Redis waits for one that is gone.
    test.skipIf(given !== undefined)("most of what was asked was answered, and episodes were extended", () => {
      expect(answered).toBeGreaterThan(seeds.length * 100);
      expect(extended).toBeGreaterThan(seeds.length / 2);
    });

    test.skipIf(given !== undefined).each(Object.keys({ ...MUTANTS, ...SCRIPT_MUTANTS }))(
      "the checker finds: %s",
      async (mutant) => {
        const { history } = await run({ seed: 99, nursery, mutant, settleMs: MUTANT_SETTLE_MS, turn });
        const found = check(history).map(({ about, text }) => `${about} ${text}`);
        expect(found).toEqual(expect.arrayContaining([expect.stringMatching(FOUND[mutant] ?? /^$/)]));
      },
    );
  },
);
