import fc from "fast-check";
import type { Schema } from "../../src/api/structural.ts";

/**
 * Any value that a structural schema takes. `likely` names fields by their last name and gives texts worth trying there, good and bad, so
 * that rules between fields are met on both sides. Fields in `never` are left out.
 */
export function fromSchema(
  schema: Schema,
  likely: Record<string, unknown[]> = {},
  never: string[] = [],
): fc.Arbitrary<unknown> {
  const value = (at: Schema, name: string): fc.Arbitrary<unknown> => {
    const known = likely[name];
    return known && at.type !== "object" && at.type !== "array"
      ? fc.oneof({ weight: 9, arbitrary: fc.constantFrom(...known) }, any(at))
      : any(at);
  };
  const any = (at: Schema): fc.Arbitrary<unknown> => {
    if (at["x-kubernetes-int-or-string"])
      return fc.constantFrom<unknown>(0, 3, "12Gi", "500m", "1.5", ".5", "1e3", "2E", "7k");
    if (at["x-kubernetes-preserve-unknown-fields"])
      return fc.constantFrom({}, { metadata: { labels: { a: "b" } }, spec: { x: [1, null, { y: true }] } });
    if (at.enum) return fc.constantFrom(...at.enum);
    if (at.type === "boolean") return fc.boolean();
    if (at.type === "integer") return integer(at);
    if (at.type === "number")
      return fc.double({ min: at.minimum ?? -1e9, max: at.maximum ?? 1e9, noNaN: true }).map((n) => n + 0);
    if (at.type === "string") return string(at);
    if (at.type === "array") return fc.array(any(at.items ?? {}), { maxLength: Math.min(at.maxItems ?? 3, 3) });
    if (at.additionalProperties) return map(at);
    return object(at);
  };
  const object = (at: Schema): fc.Arbitrary<unknown> => {
    const fields = Object.entries(at.properties ?? {}).filter(([name]) => !never.includes(name));
    // Mostly left out: with everything there, some rule is broken nearly always.
    const maybe = (name: string, inner: Schema) =>
      at.required?.includes(name)
        ? value(inner, name)
        : fc.oneof({ weight: 3, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: value(inner, name) });
    const model = Object.fromEntries(fields.map(([name, inner]) => [name, maybe(name, inner)]));
    return fc
      .record(model, { noNullPrototype: true })
      .map((made) => Object.fromEntries(Object.entries(made).filter(([, inner]) => inner !== undefined)));
  };
  const map = (at: Schema): fc.Arbitrary<unknown> => {
    const keys = fc.constantFrom("memory", "cpu", "planner", "coder", "nvidia.com/gpu");
    return fc.dictionary(keys, any(at.additionalProperties ?? {}), { maxKeys: 2, noNullPrototype: true });
  };
  return any(schema);
}

function integer({ minimum = -1000, maximum = 1000 }: Schema): fc.Arbitrary<number> {
  const small = fc.integer({ min: minimum, max: Math.min(maximum, minimum + 6) });
  return fc.oneof(small, fc.constantFrom(minimum, maximum), fc.integer({ min: minimum, max: maximum }));
}

function string({ pattern, minLength = 0, maxLength = 20 }: Schema): fc.Arbitrary<string> {
  if (pattern !== undefined) return fc.stringMatching(new RegExp(pattern)).filter((text) => text.length <= maxLength);
  return fc.string({ unit: "binary", minLength, maxLength: Math.min(maxLength, 20) });
}

/** The value with one thing in it changed for something that may not belong there. */
export function spoil(value: unknown): fc.Arbitrary<unknown> {
  const places = walk(value, []);
  const junk = fc.constantFrom<unknown>(
    null,
    "",
    "x y",
    -1,
    1.5,
    10_000_000_000,
    true,
    [],
    {},
    "🤖".repeat(13),
    "a".repeat(20_000),
  );
  return fc.tuple(fc.nat({ max: places.length - 1 }), junk, fc.boolean()).map(([index, bad, extra]) => {
    const copy = structuredClone(value);
    const path = places[index] ?? [];
    let holder = copy as Record<PropertyKey, unknown>;
    for (const step of path.slice(0, -1)) holder = holder[step] as Record<PropertyKey, unknown>;
    const last = path.at(-1) ?? "";
    holder[extra && typeof last === "string" ? `${last}s` : last] = bad;
    return copy;
  });
}

function walk(value: unknown, path: PropertyKey[]): PropertyKey[][] {
  if (typeof value !== "object" || value === null) return [path];
  const entries: [PropertyKey, unknown][] = Array.isArray(value) ? [...value.entries()] : Object.entries(value);
  const inner = entries.flatMap(([key, child]) => walk(child, [...path, key]));
  return path.length === 0 ? inner : [path, ...inner];
}
