/** Share by which a speed must differ from the one that is known before it is news. */
const NOTABLE = 0.2;

/** Whether a measured speed is worth telling: it is the first, or a fifth away from the one that is known. */
export function isNotable(known: number | undefined, measured: number | undefined): boolean {
  if (measured === undefined || known === undefined) return measured !== known;
  return Math.abs(measured - known) > NOTABLE * known;
}

/** Two digits that count: 61.3 is 61, 0.0432 is 0.043. */
export const rounded = (value: number): number => Number(value.toPrecision(2));
