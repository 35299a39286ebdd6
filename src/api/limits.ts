import { z } from "zod";
import { mapOf, seconds } from "./fields.ts";

const MONTH = 2_592_000;

/** How long a task of many requests may run. */
export const Episodes = z.strictObject({
  timeoutSeconds: seconds(1, MONTH).default(1800).describe("Time an episode has from its start."),
  progressExtendSeconds: seconds(0, MONTH)
    .default(120)
    .describe("Time that progress shortly before the deadline adds. 0: none."),
  maxTimeoutSeconds: seconds(1, MONTH).default(3600).describe("Time from the start that no progress extends."),
  idleTimeoutSeconds: seconds(0, MONTH)
    .default(0)
    .describe("Time without any request or progress after which it ends. 0: never."),
  heartbeatSeconds: seconds(1, 86_400).default(20).describe("Time between two heartbeat lines of an active episode."),
  retainSeconds: seconds(0, MONTH).default(86_400).describe("Time for which an ended episode's id stays taken."),
});

const tokens = () => z.int().min(0).max(1_000_000_000_000_000);

/** How many tokens may be spent. */
export const Budgets = z.strictObject({
  episodeTokens: tokens().default(0).describe("Tokens one episode may spend. 0: no limit."),
  roleTokens: mapOf(64, tokens())
    .default({})
    .describe("Tokens that each named role may spend inside one episode. 0: no limit."),
  poolTokensPerDay: tokens().default(0).describe("Tokens the whole pool may spend in a day (UTC). 0: no limit."),
});
