let acts: (() => void)[] = [];

/**
 * Calls `act` at the end of this turn of the event loop: when all that has come in is read. What is written then, back to back, wakes a
 * reader on another core once and not once for each piece, and to wake somebody is the dearest part of a small write.
 */
export function atEndOfTurn(act: () => void): void {
  if (acts.push(act) === 1) setImmediate(run);
}

/** Resolves when all that was asked for until now is done. */
export function endOfTurn(): Promise<void> {
  return new Promise(atEndOfTurn);
}

function run(): void {
  const all = acts;
  acts = [];
  for (const act of all) act();
}
