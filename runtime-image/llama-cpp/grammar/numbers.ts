import { anyOf, literal } from "./builder.ts";
import { type Schema, SchemaError } from "./limits.ts";

interface Bounds {
  low: number;
  high: number;
  /** True when the bound itself is not allowed. */
  aboveLow: boolean;
  belowHigh: boolean;
}

/** Digits that a number may have in front of its point. */
const MOST_DIGITS = 15;
const FRACTION = '( "." [0-9]{1,9} )?';
const FRACTION_NOT_ZERO = '"." "0"{0,4} [1-9] [0-9]{0,4}';

/** A number or whole number within the bounds of its schema. */
export function numberExpression(schema: Schema, type: "integer" | "number", path: string): string {
  const low = bound(schema.minimum, schema.exclusiveMinimum, Number.NEGATIVE_INFINITY, (a, b) => a > b);
  const high = bound(schema.maximum, schema.exclusiveMaximum, Number.POSITIVE_INFINITY, (a, b) => a < b);
  if (!Number.isFinite(low.at) && !Number.isFinite(high.at)) return type;
  const bounds: Bounds = { low: low.at, high: high.at, aboveLow: low.open, belowHigh: high.open };
  const expression = type === "integer" ? integersWithin(bounds) : numbersWithin(bounds);
  if (expression === undefined)
    throw new SchemaError(path, "no number that this runtime can write is within its bounds");
  return expression;
}

/** The tighter of the two forms; an old draft's `exclusiveMinimum: true` belongs to `minimum`. */
function bound(inclusive: unknown, exclusive: unknown, none: number, tighter: (a: number, b: number) => boolean) {
  const at = typeof inclusive === "number" ? inclusive : none;
  if (typeof exclusive === "number" && (at === none || !tighter(at, exclusive))) return { at: exclusive, open: true };
  return { at, open: exclusive === true };
}

/** Whole numbers within the bounds, or undefined when there are none. */
function integersWithin({ low, high, aboveLow, belowHigh }: Bounds): string | undefined {
  const first = aboveLow && Number.isInteger(low) ? low + 1 : Math.ceil(low);
  const last = belowHigh && Number.isInteger(high) ? high - 1 : Math.floor(high);
  return choices([whole(Math.max(0, first), last), minus(whole(Math.max(1, -last), -first))]);
}

/** Numbers within the bounds: all that are written without an exponent where the bounds are whole, else those with the bounds' decimals. */
function numbersWithin(bounds: Bounds): string | undefined {
  const { low, high, aboveLow, belowHigh } = bounds;
  const negative: Bounds = {
    low: Math.max(0, -high),
    high: -low,
    aboveLow: high <= 0 && belowHigh,
    belowHigh: aboveLow,
  };
  const positive: Bounds = { ...bounds, low: Math.max(0, low), aboveLow: low >= 0 && aboveLow };
  return choices([notNegative(positive), minus(high <= 0 || low < 0 ? notNegative(negative) : undefined)]);
}

function notNegative({ low, high, aboveLow, belowHigh }: Bounds): string | undefined {
  if (high < low) return undefined;
  const decimals = Math.max(decimalsOf(low), decimalsOf(high));
  if (decimals > 0) return scaled(low, high, aboveLow, belowHigh, decimals);
  const first = aboveLow ? low + 1 : low;
  return choices([
    // From `low` to below the next whole number.
    aboveLow && low + 1 <= high ? `${digits(low)} ${FRACTION_NOT_ZERO}` : undefined,
    withFraction(whole(first, high - 1)),
    !belowHigh && first <= high && high !== Number.POSITIVE_INFINITY ? digits(high) : undefined,
  ]);
}

/** Numbers with exactly `decimals` digits behind the point. */
function scaled(
  low: number,
  high: number,
  aboveLow: boolean,
  belowHigh: boolean,
  decimals: number,
): string | undefined {
  const scale = 10 ** decimals;
  if (Math.max(low, Number.isFinite(high) ? high : 0) * scale > 10 ** MOST_DIGITS) return undefined;
  const first = Math.round(low * scale) + (aboveLow ? 1 : 0);
  const last = high === Number.POSITIVE_INFINITY ? high : Math.round(high * scale) - (belowHigh ? 1 : 0);
  return whole(first, last, decimals);
}

/** Whole numbers from `first` to `last`, neither negative, with a point in front of the last `decimals` digits. */
function whole(first: number, last: number, decimals = 0): string | undefined {
  if (last < first || first > 10 ** MOST_DIGITS) return undefined;
  const shortest = decimals + 1;
  const from = String(first).padStart(shortest, "0");
  const most = Math.max(MOST_DIGITS, shortest);
  const to =
    last === Number.POSITIVE_INFINITY || last >= 10 ** most ? "9".repeat(most) : String(last).padStart(shortest, "0");
  const parts: string[] = [];
  for (let length = from.length; length <= to.length; length++) {
    const low = length === from.length ? from : `1${"0".repeat(length - 1)}`;
    const high = length === to.length ? to : "9".repeat(length);
    parts.push(sameLength(low, high, decimals));
  }
  return choices(parts);
}

/** Digit strings of one length between two, compared as text. */
function sameLength(low: string, high: string, decimals: number): string {
  const point = decimals > 0 && low.length === decimals ? '"." ' : "";
  if (low === "") return "";
  const [a, b] = [low.charAt(0), high.charAt(0)];
  const [restLow, restHigh] = [low.slice(1), high.slice(1)];
  const next = (from: string, to: string) => (from === "" ? "" : ` ${sameLength(from, to, decimals)}`);
  const zeros = "0".repeat(restLow.length);
  const nines = "9".repeat(restLow.length);
  if (a === b) return `${point}${literal(a)}${next(restLow, restHigh)}`;
  if (restLow === zeros && restHigh === nines) return `${point}[${a}-${b}]${next(zeros, nines)}`;
  const between = [Number(a) + 1, Number(b) - 1] as const;
  const parts = [
    `${literal(a)}${next(restLow, nines)}`,
    ...(between[0] <= between[1] ? [`[${between[0]}-${between[1]}]${next(zeros, nines)}`] : []),
    `${literal(b)}${next(zeros, restHigh)}`,
  ];
  return `${point}${anyOf(parts)}`;
}

const digits = (value: number): string => literal(String(value));
const withFraction = (expression: string | undefined) =>
  expression === undefined ? undefined : `${expression} ${FRACTION}`;
const minus = (expression: string | undefined) => (expression === undefined ? undefined : `"-" ${expression}`);

function choices(parts: readonly (string | undefined)[]): string | undefined {
  const present = parts.filter((part) => part !== undefined);
  return present.length === 0 ? undefined : anyOf(present);
}

function decimalsOf(value: number): number {
  if (!Number.isFinite(value)) return 0;
  const [mantissa = "", exponent = "0"] = String(value).split("e");
  return Math.max(0, (mantissa.split(".")[1] ?? "").length - Number(exponent));
}
