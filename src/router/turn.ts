/**
 * Writes that belong to one turn of the event loop leave back to back: they wake a reader on another core once and not once for each piece, and
 * to wake somebody is the dearest part of a small write.
 */

type Act = () => void;

/** Calls `act` at the end of this turn: when all that has come in is read. */
export const atEndOfTurn = together((run) => void setImmediate(run));

/** Calls `act` when nothing is left that can go on: when no promise is settled whose reactions have not run. Well before the end of the turn. */
export const afterPromises = together((run) => process.nextTick(run));

/** Resolves when all that was asked for until now is done. */
export function endOfTurn(): Promise<void> {
  return new Promise(atEndOfTurn);
}

function together(schedule: (run: Act) => void): (act: Act) => void {
  let acts: Act[] = [];
  const run = () => {
    const all = acts;
    acts = [];
    for (const act of all) act();
  };
  return (act) => {
    if (acts.push(act) === 1) schedule(run);
  };
}
