import type { Quantity } from "../../src/api/fields.ts";
import { parseQuantity } from "../../src/core/quantity.ts";

type Amounts = Record<string, string>;

interface Resources {
  limits?: Record<string, Quantity> | undefined;
  requests?: Record<string, Quantity> | undefined;
}

/** Resources of one instance as text, keys sorted; `times` instances in one container need that many times as much. */
export function resourcesOf(
  { limits, requests }: Resources,
  times = 1,
  extra: Amounts = {},
): { limits?: Amounts; requests?: Amounts } {
  const most = { ...amounts(limits, times), ...extra };
  const sure = amounts(requests, times);
  return {
    ...(Object.keys(most).length > 0 && { limits: most }),
    ...(Object.keys(sure).length > 0 && { requests: sure }),
  };
}

function amounts(map: Record<string, Quantity> | undefined, times: number): Amounts {
  return Object.fromEntries(
    Object.entries(map ?? {})
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, quantity]) => [name, times === 1 ? String(quantity) : multiplied(quantity, times)]),
  );
}

/** Whole units, or thousandths where there are parts. */
function multiplied(quantity: Quantity, times: number): string {
  const thousandths = Math.ceil(parseQuantity(quantity) * times * 1000 - 1e-6);
  return thousandths % 1000 === 0 ? String(thousandths / 1000) : `${thousandths}m`;
}
