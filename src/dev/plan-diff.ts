import type { InstancePlan, PoolPlan, RolePlan, VariantPlan } from "../core/plan/types.ts";

/** What an edit changes, one line each, for people; empty when it changes nothing. */
export function describeChange(before: PoolPlan, after: PoolPlan): string[] {
  return [
    ...byName(before.variants, after.variants, "variant", describeNewVariant, describeVariant),
    ...byName(before.roles, after.roles, "role", describeRole, describeRoleChange),
    ...fieldChanges(before.router, after.router).map((change) => `router: ${change}`),
  ];
}

function byName<T extends { name: string }>(
  before: readonly T[],
  after: readonly T[],
  what: string,
  added: (item: T) => string,
  changed: (old: T, item: T) => string[],
): string[] {
  const olds = new Map(before.map((item) => [item.name, item]));
  const names = new Set(after.map((item) => item.name));
  return [
    ...before.filter((item) => !names.has(item.name)).map((item) => `${what} ${item.name}: removed`),
    ...after.flatMap((item) => {
      const old = olds.get(item.name);
      return old ? changed(old, item) : [`${what} ${item.name}: added, ${added(item)}`];
    }),
  ];
}

const describeNewVariant = (variant: VariantPlan): string =>
  `${count(variant.instances.length)} of ${variant.modelName}`;

function describeVariant(old: VariantPlan, now: VariantPlan): string[] {
  const lines: string[] = [];
  const [from, to] = [old.instances.length, now.instances.length];
  if (from !== to) lines.push(`variant ${now.name}: ${from} -> ${count(to)}`);
  const [was, is] = [old.instances[0], now.instances[0]];
  if (!was || !is) return lines;
  const restarts = was.revision === is.revision ? "" : " (its instances are replaced one by one)";
  const changes = fieldChanges(settings(was), settings(is));
  if (changes.length > 0) lines.push(`variant ${now.name}: ${changes.join(", ")}${restarts}`);
  return lines;
}

/** What is the same for all instances of a variant, as the resource says it. */
function settings(instance: InstancePlan): object {
  const {
    id: _id,
    index: _index,
    ordinal: _ordinal,
    slot: _slot,
    port: _port,
    metricsPort: _metrics,
    ...rest
  } = instance;
  return { ...rest, variant: undefined, revision: undefined };
}

const describeRole = (role: RolePlan): string => `on ${places(role)}`;

function describeRoleChange(old: RolePlan, now: RolePlan): string[] {
  const changes: string[] = [];
  if (places(old) !== places(now)) changes.push(`${places(old)} -> ${places(now)}`);
  if (old.systemPrompt !== now.systemPrompt) changes.push("another system prompt");
  return changes.length > 0 ? [`role ${now.name}: ${changes.join(", ")}`] : [];
}

const places = ({ instances }: RolePlan): string =>
  instances.length === 1 ? `instance ${instances[0]}` : `instances ${instances.join(", ")}`;

const count = (n: number): string => (n === 1 ? "1 instance" : `${n} instances`);

/** `path before -> after` of every leaf that differs. */
function fieldChanges(before: object, after: object): string[] {
  const [olds, news] = [leaves(before), leaves(after)];
  const paths = [...new Set([...olds.keys(), ...news.keys()])];
  return paths
    .filter((path) => olds.get(path) !== news.get(path))
    .map((path) => `${path} ${olds.get(path) ?? "none"} -> ${news.get(path) ?? "none"}`);
}

function leaves(value: object, prefix = ""): Map<string, string> {
  const found = new Map<string, string>();
  for (const [key, inner] of Object.entries(value)) {
    // An empty text says nothing, as an absent field.
    if (inner === undefined || inner === "") continue;
    const path = prefix === "" ? key : `${prefix}.${key}`;
    if (typeof inner === "object" && inner !== null) for (const [k, v] of leaves(inner, path)) found.set(k, v);
    else found.set(path, String(inner));
  }
  return found;
}
