export type Schema = Readonly<Record<string, unknown>>;

/** What is compiled is bounded before it is looked at: a schema comes from a caller. */
export const LIMITS = {
  schemaBytes: 65_536,
  nodes: 10_000,
  depth: 64,
  rules: 5_000,
  /** Values of an enum, alternatives, or optional properties in one place: each is tried with each token of the vocabulary. */
  choices: 256,
  grammarBytes: 131_072,
  /** All counted repetitions together: the engine writes each out. */
  repeats: 15_000,
  /** Places that the engine may have open at once (ways.ts). */
  ways: 48,
  patternLength: 1_000,
  /** Of the compiler, each a microsecond or less: schemas visited, keys merged, ways of patterns followed. */
  steps: 16_000,
  /** Repetitions that are counted; the engine takes 2,000, and above that forgets the limit without a word. */
  repeat: 1_000,
};

/** A schema that cannot be compiled; `path` is a JSON pointer into it. */
export class SchemaError extends Error {
  readonly path: string;

  constructor(path: string, message: string) {
    super(message);
    this.path = path;
  }
}

/** Bounds the schema before anything walks through it recursively. */
export function checkSize(schema: unknown): void {
  const waiting: { value: unknown; depth: number }[] = [{ value: schema, depth: 0 }];
  let bytes = 0;
  for (let nodes = 1; ; nodes++) {
    const next = waiting.pop();
    if (!next) return;
    if (nodes > LIMITS.nodes) throw new SchemaError("", `it has more than ${LIMITS.nodes} values`);
    if (next.depth > LIMITS.depth) throw new SchemaError("", `it is nested more than ${LIMITS.depth} levels deep`);
    bytes += typeof next.value === "string" ? next.value.length : 1;
    if (typeof next.value === "object" && next.value !== null) {
      for (const [key, value] of Object.entries(next.value)) {
        bytes += key.length;
        waiting.push({ value, depth: next.depth + 1 });
      }
    }
    if (bytes > LIMITS.schemaBytes) throw new SchemaError("", `it is larger than ${LIMITS.schemaBytes} bytes`);
  }
}

export const isSchema = (value: unknown): value is Schema =>
  typeof value === "object" && value !== null && !Array.isArray(value);
