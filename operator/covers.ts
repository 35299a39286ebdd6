import type { Quantity } from "../src/api/fields.ts";
import { parseQuantity } from "../src/core/quantity.ts";

/** Below these keys texts are amounts, which the server writes in its own way: 1536Mi becomes 1.5Gi. */
const AMOUNTS = new Set(["limits", "requests", "sizeLimit"]);

/**
 * Whether a stored object already says everything that is wanted. It may say more: defaults, status, fields of others. Lists have to be of
 * equal length, item by item.
 */
export function covers(stored: unknown, wanted: unknown, amounts = false): boolean {
  if (Array.isArray(wanted)) {
    const list = stored ?? [];
    return (
      Array.isArray(list) &&
      list.length === wanted.length &&
      wanted.every((item, at) => covers(list[at], item, amounts))
    );
  }
  if (typeof wanted === "object" && wanted !== null) {
    const entries = Object.entries(wanted);
    // The server drops what is empty.
    if (stored === undefined) return entries.length === 0;
    if (typeof stored !== "object" || stored === null) return false;
    return entries.every(([key, value]) =>
      covers((stored as Record<string, unknown>)[key], value, amounts || AMOUNTS.has(key)),
    );
  }
  return stored === wanted || (amounts && sameAmount(stored, wanted));
}

function sameAmount(stored: unknown, wanted: unknown): boolean {
  try {
    return parseQuantity(stored as Quantity) === parseQuantity(wanted as Quantity);
  } catch {
    return false;
  }
}
