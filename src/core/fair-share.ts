/** Requests that compete as one. */
export interface Flow {
  /** Slots it holds now. */
  running: number;
  /** Starts it has had, on a scale that all flows share: who has more has had more than its turn. */
  turns: number;
}

/** The next request of a flow, which could start now. */
export interface Candidate<F extends Flow = Flow> {
  flow: F;
  /** On the clock's scale, in milliseconds. */
  deadline: number;
  /** On the clock's scale: decides between equal deadlines, */
  arrivedAt: number;
  /** and the number of its arrival decides between equal instants. */
  arrival: number;
}

/** How many turns a flow with early deadlines may be ahead of the others that wait. */
export const LEAD = 1;

/**
 * Who gets the free slot, in three steps. A flow that holds its equal share of the slots (`share` = slots / flows) or more stands back
 * while one below its share waits; when all hold theirs, those with the fewest slots are left. Of these, a flow that is more than LEAD
 * turns ahead stands back too: otherwise a caller with ever new, tiny timeouts would always go first. Of those left, the earliest
 * deadline wins. So a deadline decides who is next, but not how much a flow gets in the long run.
 *
 * `floor` is the least number of turns of all of them: where a newcomer begins, and nobody who waits is lifted to it.
 */
export function pickFair<C extends Candidate>(
  candidates: readonly C[],
  share: number,
): { pick: C; floor: number } | undefined {
  let fewest = Number.POSITIVE_INFINITY;
  let floor = Number.POSITIVE_INFINITY;
  for (const { flow } of candidates) {
    fewest = Math.min(fewest, flow.running);
    floor = Math.min(floor, flow.turns);
  }
  const mayRun = ({ running }: Flow) => (fewest < share ? running < share : running === fewest);
  let least = Number.POSITIVE_INFINITY;
  for (const { flow } of candidates) if (mayRun(flow)) least = Math.min(least, flow.turns);
  let pick: C | undefined;
  for (const candidate of candidates) {
    if (!mayRun(candidate.flow) || candidate.flow.turns > least + LEAD) continue;
    if (pick === undefined || isSooner(candidate, pick)) pick = candidate;
  }
  return pick && { pick, floor };
}

/** Earlier deadline first; of equal ones the one that has waited for longer. */
export function isSooner(a: Omit<Candidate, "flow">, b: Omit<Candidate, "flow">): boolean {
  return a.deadline < b.deadline || (a.deadline === b.deadline && isEarlier(a, b));
}

/** Who came first. */
export function isEarlier(a: Pick<Candidate, "arrivedAt" | "arrival">, b: typeof a): boolean {
  return a.arrivedAt < b.arrivedAt || (a.arrivedAt === b.arrivedAt && a.arrival < b.arrival);
}
