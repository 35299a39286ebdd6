import { LLMPoolError } from "../lib/errors.ts";
import type { DeadlineCode, FlowLine } from "./queue-entry.ts";

/** When a request could start, in milliseconds; 0 for what was never measured. */
export interface Estimate {
  /** To its deadline. */
  leftMs: number;
  /** Requests that start before it. */
  ahead: number;
  waitMs: number;
  prefillMs: number;
}

/** The refusal of a request whose first token would come after its deadline by measured speed; undefined when there is time. */
export function tooLate(
  instance: string,
  { deadlineCode }: { deadlineCode: DeadlineCode },
  { leftMs, ahead, waitMs, prefillMs }: Estimate,
): LLMPoolError | undefined {
  const firstTokenMs = waitMs + prefillMs;
  if (leftMs > 0 && firstTokenMs <= leftMs) return undefined;
  const limit = deadlineCode === "request_timeout" ? "the request's timeout" : "the end of its episode";
  if (leftMs <= 0) return new LLMPoolError(deadlineCode, `${limit} came before a slot on instance ${instance}`);
  return new LLMPoolError(
    deadlineCode,
    `the first token from instance ${instance} would come after about ${seconds(firstTokenMs)} (${seconds(waitMs)} for ${ahead} requests ` +
      `before it, ${seconds(prefillMs)} to read the prompt), but ${limit} is ${seconds(leftMs)} away`,
  );
}

/**
 * Requests that start before place `index` of `flow` if nothing changes: flows take turns, and within one turn the earlier deadline is
 * first. `floor` is the least number of turns that counts.
 */
export function countBefore(
  flows: Iterable<FlowLine>,
  floor: number,
  flow: FlowLine | undefined,
  index: number,
  deadline: number,
): number {
  const turn = Math.max(flow?.turns ?? 0, floor) + index;
  let before = index;
  for (const other of flows) {
    if (other === flow) continue;
    const first = Math.max(other.turns, floor);
    for (const [i, entry] of other.waiting.entries()) {
      if (first + i > turn) break;
      if (first + i < turn || entry.deadline <= deadline) before++;
    }
  }
  return before;
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
