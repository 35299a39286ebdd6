import { expect, test } from "vitest";
import type { Episode } from "../core/store.ts";
import { episodeObject } from "./views.ts";

const START = Date.UTC(2026, 0, 1);
const EPISODE: Episode = {
  ...{
    tenant: "",
    id: "e",
    state: "active",
    startedAt: START,
    remainingMs: 600_000,
    limitMs: 1_800_000,
    extensions: 0,
  },
  ...{ tokensUsed: 0, tokensReserved: 0, lastProgress: { event: "started", at: START }, metadata: {} },
  settings: {
    ...{ timeoutSeconds: 1800, progressExtendSeconds: 120, maxTimeoutSeconds: 3600 },
    ...{ idleTimeoutSeconds: 0, retainSeconds: 60, budgetTokens: 0 },
  },
};

test("an episode that runs ends when its time is over by the clock that decides, whatever became of the wall clock", () => {
  const { deadline } = episodeObject(EPISODE, [], START + 3_600_000 + 0.4);
  expect(deadline).toBe("2026-01-01T01:10:00.000Z");
});

test("the deadline of one that has ended is an instant, and not another one for each who asks", () => {
  const ended: Episode = { ...EPISODE, state: "ended", endReason: "finished", remainingMs: 0 };
  const told = [1_000, 2_000_000].map((ms) => episodeObject(ended, [], START + ms).deadline);
  expect(told).toEqual(Array(2).fill("2026-01-01T00:30:00.000Z"));
});
