import type { Schema } from "../../src/api/structural.ts";

type Path = readonly (string | number)[];

/** One thing changed in a spec. */
export interface Mutation {
  path: Path;
  /** `deleted`, `one above the most`: what was done there. */
  rule: string;
  value: unknown;
}

/** In place of a value: the field is taken away. */
export const GONE: unique symbol = Symbol("gone");
const MIB = 1024 * 1024;
const UNICODE = "Ω-日本-🤖-\u202e";

/** Texts worth trying where a pattern or a rule lets few through, by the field's name. */
const TEXTS: Readonly<Record<string, readonly string[]>> = {
  uri: [
    "hf://org/repo/a.gguf@main",
    "hf://org/repo",
    "file:///m/a.gguf",
    "pvc://claim/m",
    "https://host/a.gguf",
    "pypi://a@1/b.gguf",
    "oci://x",
    "s3://x",
  ],
  quantization: ["nf4", "int8", "none", "Q4_K_M", "a b"],
  sha256: ["0".repeat(64), "0".repeat(63)],
  name: ["default", "router", "instances", "code", "-a", "a.b", "A"],
  variant: ["default", "code", "none"],
  resource: ["nvidia.com/mig-1g.10gb", "cpu", "a/b/c"],
  image: ["registry.example/a/b:c", "a b", "A:B:C"],
  systemPrompt: ["$(HOME) $$ \\ \" ' \n\t \u0000".replace("\u0000", ""), "{{ x }}"],
  warmupPrompt: ["$(LLMPOOL_POD_INDEX)", "\n"],
};

/** What a person may write into a pod template, right and wrong. */
const POD_TEMPLATES: readonly unknown[] = [
  {},
  { metadata: { labels: { team: "a" }, annotations: { note: UNICODE } } },
  { metadata: { labels: { "llmpool.dev/pool": "other", "app.kubernetes.io/component": "other" } } },
  { metadata: { labels: "x" } },
  { metadata: 5 },
  { metadata: { annotations: { large: "a".repeat(MIB) } } },
  { spec: { nodeSelector: { none: "such" } } },
  { spec: { priorityClassName: "none-such" } },
  { spec: { containers: [{ name: "instance", env: [{ name: "A", value: "1" }] }] } },
  { spec: { containers: [{ name: "router", env: [{ name: "A", value: "$(B)" }] }] } },
  { spec: { containers: [{ name: "instance", $patch: "delete" }] } },
  { spec: { containers: [{ name: "side", image: "side:1" }] } },
  { spec: { containers: [{ name: "side" }] } },
  { spec: { containers: [{}] } },
  { spec: { containers: "x" } },
  { spec: { containers: null } },
  { spec: { containers: [null, 5] } },
  { spec: { initContainers: [{ name: "init", image: "i:1" }], terminationGracePeriodSeconds: 1 } },
  { spec: { volumes: [{ name: "token", emptyDir: {} }] } },
  { spec: { hostPID: true } },
  { spec: { restartPolicy: "Never" } },
  { spec: { tolerations: [{ operator: "Exists" }] } },
  { spec: { bogus: 1 } },
  { spec: { containers: [{ name: "instance", env: "x", ports: 5, volumeMounts: [null], livenessProbe: 5 }] } },
  { spec: { volumes: 5, nodeSelector: 5, tolerations: "x" } },
  {
    spec: {
      affinity: { nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: "x" } } },
    },
  },
  {
    spec: {
      affinity: {
        nodeAffinity: {
          requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [null, { matchExpressions: [null] }] },
        },
      },
    },
  },
  { spec: 5 },
  { spec: null },
  { bogus: true },
];

/**
 * What Acto's rules make of one spec, each property of the schema in turn: deleted, empty, the least, the most, one beyond, changed, an item more
 * and less, every value of an enumeration, a key more and less, fields that nobody knows, texts of 1 MiB and of any script. Where a property is not
 * in the spec, what it needs comes with it.
 */
export function mutationsOf(schema: Schema, spec: unknown): Mutation[] {
  return [...walk(schema, spec, [])];
}

/** The spec with that done to it; itself, where there is nothing to do it to. The argument is not changed. */
export function mutate(spec: unknown, { path, value }: Mutation): unknown {
  const [step, ...rest] = path;
  if (step === undefined) return value === GONE ? {} : value;
  const copy: Record<string | number, unknown> | unknown[] = Array.isArray(spec)
    ? [...spec]
    : { ...(isObject(spec) ? spec : {}) };
  const holder = copy as Record<string | number, unknown>;
  if (rest.length > 0) holder[step] = mutate(holder[step], { path: rest, rule: "", value });
  else if (value !== GONE) holder[step] = value;
  else if (Array.isArray(copy)) copy.splice(Number(step), 1);
  else delete holder[step];
  return copy;
}

/** `spec.router.replicas one above the most (17)` */
export function nameOf({ path, rule, value }: Mutation): string {
  const shown = value === GONE ? "" : ` ${JSON.stringify(value)?.slice(0, 80)}`;
  return `${["spec", ...path].join(".")}: ${rule}${shown}`;
}

function* walk(at: Schema, value: unknown, path: Path): Generator<Mutation> {
  if (path.length > 0) {
    const absent = value === undefined;
    for (const [rule, changed] of changes(at, value, String(path.at(-1))))
      if (!(absent && changed === GONE)) yield { path, rule, value: changed };
  }
  if (at.properties) yield { path: [...path, "bogus"], rule: "a field that nobody knows", value: 1 };
  for (const [name, inner] of Object.entries(at.properties ?? {})) {
    const own = isObject(value) ? value[name] : undefined;
    yield* inside(walk(inner, own ?? least(inner, name), [...path, name]), own === undefined, path, at, name);
  }
  if (at.items && Array.isArray(value) && value.length > 0) yield* walk(at.items, value[0], [...path, 0]);
  if (at.additionalProperties && isObject(value)) {
    const [key] = Object.keys(value);
    if (key !== undefined) yield* walk(at.additionalProperties, value[key], [...path, key]);
  }
}

/** Changes below a property that is not there begin by putting it there, as a change of what holds it. */
function* inside(
  mutations: Generator<Mutation>,
  absent: boolean,
  path: Path,
  holder: Schema,
  name: string,
): Generator<Mutation> {
  const inner = holder.properties?.[name] ?? {};
  for (const mutation of mutations) {
    if (!absent) yield mutation;
    else if (mutation.path.length === path.length + 1) {
      if (mutation.value !== GONE) yield mutation;
    } else {
      const below = { ...mutation, path: mutation.path.slice(path.length + 1) };
      const rule = `${mutation.path.slice(path.length + 1).join(".")} ${mutation.rule}`;
      yield { path: [...path, name], rule, value: mutate(least(inner, name), below) };
    }
  }
}

/** What can be done to one value, whatever holds it. */
function* changes(at: Schema, value: unknown, name: string): Generator<[rule: string, value: unknown]> {
  yield ["deleted", GONE];
  yield ["null", null];
  yield ["of another type", at.type === "object" || at.type === "array" ? "text" : { an: "object" }];
  if (at["x-kubernetes-int-or-string"]) yield* amounts(name);
  else if (at["x-kubernetes-preserve-unknown-fields"]) for (const one of POD_TEMPLATES) yield ["changed", one];
  else if (at.enum) for (const one of [...at.enum, "Bogus", ""]) yield ["of the enumeration, or not", one];
  else if (at.type === "boolean") yield* [true, false].map((one): [string, unknown] => ["changed", one]);
  else if (at.type === "integer" || at.type === "number") yield* numbers(at, Number(value));
  else if (at.type === "string") yield* texts(at, name);
  else if (at.type === "array") yield* lists(at, Array.isArray(value) ? value : []);
  else if (at.additionalProperties) yield* maps(at, isObject(value) ? value : {});
  else yield ["empty", {}];
}

function* amounts(name: string): Generator<[string, unknown]> {
  for (const one of [0, 1, -1, "", "1Gi", "2Gi", "1536Mi", "500m", "1.5", ".5", "1e3", "9E", "x", "-1"])
    yield ["changed", one];
  // The test cluster makes no such volume, and does not say so.
  if (name !== "storage") yield ["changed", "9".repeat(32)];
}

function* numbers({ minimum, maximum, type }: Schema, value: number): Generator<[string, unknown]> {
  if (minimum !== undefined) {
    yield ["the least", minimum];
    yield ["one below the least", minimum - 1];
  }
  if (maximum !== undefined) {
    yield ["the most", maximum];
    yield ["one above the most", maximum + 1];
  }
  yield ["one more", (Number.isFinite(value) ? value : (minimum ?? 0)) + 1];
  yield [type === "integer" ? "no whole number" : "between", 0.5];
  yield ["more than a number holds", 1e300];
}

function* texts({ minLength = 0, maxLength }: Schema, name: string): Generator<[string, unknown]> {
  yield ["empty", ""];
  yield ["short", "a".repeat(Math.max(1, minLength))];
  if (maxLength !== undefined) {
    yield ["the longest", "a".repeat(maxLength)];
    yield ["one too long", "a".repeat(maxLength + 1)];
  }
  yield ["1 MiB", "a".repeat(MIB)];
  yield ["of any script", UNICODE];
  for (const text of TEXTS[name] ?? []) yield ["changed", text];
}

function* lists(at: Schema, value: readonly unknown[]): Generator<[string, unknown]> {
  const keys = at["x-kubernetes-list-map-keys"] ?? [];
  const item = (i: number) => {
    const made = least(at.items ?? {}, "");
    return isObject(made) ? { ...made, ...Object.fromEntries(keys.map((key) => [key, `x${i}`])) } : made;
  };
  yield ["empty", []];
  yield ["an item more", [...value, item(0)]];
  if (value.length > 0) {
    yield ["an item less", value.slice(1)];
    yield ["an item twice", [...value, value[0]]];
    yield ["turned round", value.toReversed()];
  }
  const { maxItems } = at;
  if (maxItems === undefined) return;
  yield ["the most items", Array.from({ length: maxItems }, (_, i) => value[i] ?? item(i))];
  yield ["one item too many", Array.from({ length: maxItems + 1 }, (_, i) => value[i] ?? item(i))];
}

function* maps(at: Schema, value: Record<string, unknown>): Generator<[string, unknown]> {
  const item = least(at.additionalProperties ?? {}, "");
  yield ["empty", {}];
  for (const key of ["x", "example.com/x", "", UNICODE, "a".repeat(300)])
    yield ["a key more", { ...value, [key]: item }];
  const [first] = Object.keys(value);
  if (first !== undefined) yield ["a key less", Object.fromEntries(Object.entries(value).slice(1))];
  if (at.maxProperties === undefined) return;
  const many = Array.from({ length: at.maxProperties + 1 }, (_, i) => [`example.com/x${i}`, item]);
  yield ["one key too many", { ...value, ...Object.fromEntries(many) }];
}

/** A small value that the schema takes, with what it requires and no more. */
function least(at: Schema, name: string): unknown {
  if (at.default !== undefined && at.type !== "object") return at.default;
  if (at["x-kubernetes-int-or-string"]) return "1Gi";
  if (at.enum) return at.enum[0];
  if (at.type === "boolean") return false;
  if (at.type === "integer" || at.type === "number") return Math.max(at.minimum ?? 0, 1);
  if (at.type === "string") return TEXTS[name]?.[0] ?? "a".repeat(Math.max(1, at.minLength ?? 0));
  if (at.type === "array") return [];
  const required = Object.entries(at.properties ?? {}).filter(([key]) => at.required?.includes(key));
  return Object.fromEntries(required.map(([key, inner]) => [key, least(inner, key)]));
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
