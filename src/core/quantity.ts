import type { Quantity } from "../api/fields.ts";

const SCALE: Readonly<Record<string, number>> = {
  n: 1e-9,
  u: 1e-6,
  m: 1e-3,
  "": 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  E: 1e18,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
  Ei: 2 ** 60,
};

/** The number that a Kubernetes quantity stands for: bytes of `12Gi`, CPUs of `1500m`. Throws on text that the schema refuses. */
export function parseQuantity(quantity: Quantity): number {
  if (typeof quantity === "number") return quantity;
  const [, digits, suffix = ""] = /^([0-9.]+)(.*)$/.exec(quantity) ?? [];
  const scale = SCALE[suffix];
  const value = scale === undefined ? Number(quantity) : Number(digits) * scale;
  if (digits === undefined || !Number.isFinite(value)) throw new RangeError(`not a quantity: ${quantity}`);
  return value;
}
