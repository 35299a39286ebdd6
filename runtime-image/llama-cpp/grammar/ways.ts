import { LIMITS } from "./limits.ts";

/**
 * How many places of a grammar the engine holds open at once. For each it tries the vocabulary with each token, and it compares them with
 * each other: a hundred cost seconds a token, in a step that nothing can interrupt. So what a caller sends is measured before that.
 */

/** An expression of a pattern: characters that it takes, in GBNF, and what it is made of. */
export type Part =
  | { kind: "one"; text: string }
  | { kind: "all"; parts: readonly Part[] }
  | { kind: "any"; parts: readonly Part[] }
  | { kind: "times"; part: Part; least: number; most: number };

/** Whether it may be empty. */
export function isEmpty(part: Part): boolean {
  switch (part.kind) {
    case "one":
      return false;
    case "all":
      return part.parts.every(isEmpty);
    case "any":
      return part.parts.some(isEmpty);
    case "times":
      return part.least === 0 || isEmpty(part.part);
  }
}

/**
 * The most ways that any text leaves open inside of the pattern, as the root of what they cost, and the steps that it took to know.
 * Infinity when it is above LIMITS.ways, or could not be found within `mostSteps`.
 */
export function waysOf(pattern: Part, mostSteps: number): { ways: number; steps: number } {
  const places = new Places(mostSteps);
  const whole = places.add(pattern);
  const ways = places.tooMany ? Number.POSITIVE_INFINITY : places.measure(whole.first);
  return { ways, steps: places.steps };
}

interface Piece {
  first: readonly number[];
  last: readonly number[];
  empty: boolean;
}

/** Every character that the pattern can take, counted repetitions written out, and which others can follow it. */
class Places {
  /** What each takes, as GBNF has it. */
  readonly #texts: string[] = [];
  readonly #next: number[][] = [];
  readonly #mostSteps: number;
  steps = 0;

  constructor(mostSteps: number) {
    this.#mostSteps = mostSteps;
  }

  get tooMany(): boolean {
    return this.steps > this.#mostSteps;
  }

  add(part: Part): Piece {
    if (this.tooMany) return NOTHING;
    switch (part.kind) {
      case "one": {
        const at = this.#texts.push(part.text) - 1;
        this.#next.push([]);
        this.steps++;
        return { first: [at], last: [at], empty: false };
      }
      case "all":
        return part.parts.reduce<Piece>((before, next) => this.#join(before, this.add(next)), NOTHING);
      case "any": {
        const pieces = part.parts.map((one) => this.add(one));
        const first = pieces.flatMap((piece) => piece.first);
        return { first, last: pieces.flatMap((piece) => piece.last), empty: pieces.some((piece) => piece.empty) };
      }
      case "times":
        return this.#repeat(part);
    }
  }

  measure(first: readonly number[]): number {
    const kinds = kindsOf(this.#texts);
    const known = new Set<string>();
    const waiting: (readonly number[])[] = [first];
    let most = first.length;
    for (let open = waiting.pop(); open; open = waiting.pop()) {
      const key = open.join();
      if (known.has(key)) continue;
      known.add(key);
      for (const taken of takenBy(open, (at) => kinds.get(this.#texts[at] ?? "") ?? [])) {
        const moves = taken.reduce((sum, at) => sum + (this.#next[at]?.length ?? 0), taken.length);
        const after = [...new Set(taken.flatMap((at) => this.#next[at] ?? []))].sort((a, b) => a - b);
        this.steps += moves + taken.length;
        most = Math.max(most, Math.ceil(Math.sqrt(moves * after.length)));
        if (most > LIMITS.ways || this.tooMany) return Number.POSITIVE_INFINITY;
        waiting.push(after);
      }
    }
    return most;
  }

  #join(before: Piece, after: Piece): Piece {
    this.#link(before.last, after.first);
    return {
      first: before.empty ? [...before.first, ...after.first] : before.first,
      last: after.empty ? [...before.last, ...after.last] : after.last,
      empty: before.empty && after.empty,
    };
  }

  #link(from: readonly number[], to: readonly number[]): void {
    this.steps += from.length * to.length;
    if (!this.tooMany) for (const at of from) this.#next[at]?.push(...to);
  }

  #repeat({ part, least, most }: Extract<Part, { kind: "times" }>): Piece {
    const loops = most === Number.POSITIVE_INFINITY;
    const needed = Math.min(least, ENOUGH);
    // A loop is the engine's own copy, behind those that have to be there.
    const copies = needed + (loops ? 1 : Math.min(most - least, ENOUGH));
    const last: number[] = [];
    let first: readonly number[] = [];
    let before: Piece | undefined;
    for (let i = 1; i <= copies && !this.tooMany; i++) {
      const copy = this.add(part);
      // As the engine has it: one that is there follows the one before, none is left out in between.
      if (before) this.#link(before.last, copy.first);
      else first = copy.first;
      if (i >= needed) last.push(...copy.last);
      before = copy;
    }
    if (before && loops) this.#link(before.last, before.first);
    return { first, last, empty: needed === 0 };
  }
}

/** More copies than this, of those that have to be there and of the others, tell nothing new: what is ambiguous is so by then. */
const ENOUGH = 128;
const NOTHING: Piece = { first: [], last: [], empty: true };

/** Which of the open places take the same kind of character. */
function takenBy(open: readonly number[], kindsAt: (at: number) => readonly number[]): Iterable<number[]> {
  const taken = new Map<number, number[]>();
  for (const at of open) {
    for (const kind of kindsAt(at)) {
      const others = taken.get(kind);
      if (others) others.push(at);
      else taken.set(kind, [at]);
    }
  }
  return taken.values();
}

/** The kinds of characters that each text takes, where all of one kind are taken by the same texts. */
function kindsOf(texts: readonly string[]): Map<string, number[]> {
  const sets = new Map([...new Set(texts)].map((text) => [text, new CharacterSet(text)]));
  const characters = new Set([...sets.values()].flatMap((set) => set.edges));
  const seen = new Map<string, number>();
  const kinds = new Map([...sets.keys()].map((text): [string, number[]] => [text, []]));
  for (const character of characters) {
    const takers = [...sets].flatMap(([text, set]) => (set.has(character) ? [text] : []));
    const key = takers.join("\n");
    if (seen.has(key)) continue;
    seen.set(key, seen.size);
    for (const text of takers) kinds.get(text)?.push(seen.size - 1);
  }
  return kinds;
}

/** What one character of GBNF takes: `"a"`, `[a-z]`, `[^\\x00-\\x1F]`. */
class CharacterSet {
  readonly #ranges: [number, number][] = [];
  readonly #negated: boolean;
  /** One character of each stretch that it tells apart from its neighbours. */
  readonly edges: number[];

  constructor(text: string) {
    this.#negated = text.startsWith("[^");
    const body = text.slice(this.#negated ? 2 : 1, -1);
    for (const [, from = "", to] of body.matchAll(
      /(\\x[0-9A-Fa-f]{2}|\\.|[^\\])(?:-(\\x[0-9A-Fa-f]{2}|\\.|[^\\]))?/gsu,
    ))
      this.#ranges.push([codeOf(from), codeOf(to ?? from)]);
    this.edges = this.#ranges.flatMap(([low, high]) => [low - 1, low, high, high + 1]);
  }

  has(code: number): boolean {
    return this.#ranges.some(([low, high]) => low <= code && code <= high) !== this.#negated;
  }
}

function codeOf(text: string): number {
  if (text.startsWith("\\x")) return Number.parseInt(text.slice(2), 16);
  const unescaped = { "\\n": "\n", "\\r": "\r", "\\t": "\t" }[text] ?? (text.length > 1 ? text.slice(1) : text);
  return unescaped.codePointAt(0) ?? 0;
}
