import { anyOf, type GrammarBuilder, literal, repeat } from "./builder.ts";
import { LIMITS, SchemaError } from "./limits.ts";
import { isEmpty, type Part, waysOf } from "./ways.ts";

/** What a JSON text cannot hold unescaped. */
const UNSAFE = '\\"\\\\\\x7F\\x00-\\x1F';
const CLASSES: Record<string, string> = { d: "0-9", w: "a-zA-Z0-9_", s: " " };

/**
 * A JSON Schema `pattern` as the inside of a JSON string. A text that matches as a whole also matches somewhere, so an expression without
 * anchors is taken as if it had both. Known: literals, `.`, classes, `\d \w \s`, groups, `|`, `* + ? {m,n}`.
 */
export function patternBody(source: string, grammar: GrammarBuilder, path: string): { body: string; ways: number } {
  if (source.length > LIMITS.patternLength)
    throw new SchemaError(path, `it is longer than ${LIMITS.patternLength} characters`);
  const parser = new PatternParser(source.replace(/^\^/, "").replace(/(?<!\\)\$$/, ""), grammar, path);
  const { text: body, part } = parser.all();
  grammar.spend(32);
  const { ways, steps } = waysOf(part, grammar.stepsLeft);
  grammar.spend(Math.min(steps, grammar.stepsLeft));
  if (ways > LIMITS.ways)
    throw new SchemaError(path, "a text can match it in too many ways at once: make it less ambiguous");
  return { body, ways };
}

/** A piece of the pattern in GBNF, and what it is made of. */
interface Piece {
  text: string;
  part: Part;
}

class PatternParser {
  readonly #text: string;
  readonly #grammar: GrammarBuilder;
  readonly #path: string;
  #at = 0;
  #depth = 0;

  constructor(text: string, grammar: GrammarBuilder, path: string) {
    this.#text = text;
    this.#grammar = grammar;
    this.#path = path;
  }

  all(): Piece {
    const body = this.#choices();
    if (this.#at < this.#text.length) throw this.#unknown();
    return body;
  }

  #choices(): Piece {
    const choices = [this.#sequence()];
    while (this.#take("|")) choices.push(this.#sequence());
    const [only] = choices;
    if (only && choices.length === 1) return only;
    const parts = choices.map(({ part }) => part);
    if (parts.filter(isEmpty).length > 1)
      throw new SchemaError(this.#path, "two alternatives of the pattern may be empty: leave one of them out");
    return { text: anyOf(choices.map(({ text }) => text)), part: { kind: "any", parts } };
  }

  #sequence(): Piece {
    const pieces: Piece[] = [];
    while (this.#at < this.#text.length && !"|)".includes(this.#peek())) pieces.push(this.#repeated(this.#atom()));
    const text = pieces.length === 0 ? '""' : pieces.map((piece) => piece.text).join(" ");
    return { text, part: { kind: "all", parts: pieces.map(({ part }) => part) } };
  }

  #atom(): Piece {
    if (this.#take("(")) return this.#group();
    const text = this.#one();
    return { text, part: { kind: "one", text } };
  }

  #one(): string {
    if (this.#take("[")) return this.#class();
    if (this.#take(".")) return `[^${UNSAFE}]`;
    if (this.#take("\\")) return this.#escape();
    const char = this.#next();
    if ("*+?{}^$]".includes(char)) throw this.#unknown(this.#at - 1);
    return plain(char);
  }

  #group(): Piece {
    if (this.#peek() === "?" && !this.#take("?:")) throw this.#unknown();
    if (++this.#depth > LIMITS.depth) throw new SchemaError(this.#path, "its groups are nested too deeply");
    const { text, part } = this.#choices();
    if (!this.#take(")")) throw this.#unknown();
    this.#depth -= 1;
    return { text: this.#grammar.rule("group", text), part };
  }

  #class(): string {
    const negated = this.#take("^");
    let body = "";
    while (!this.#take("]")) {
      if (this.#at >= this.#text.length) throw this.#unknown();
      const char = this.#next();
      if (char === "\\") body += this.#classEscape();
      else if ('"\u007F'.includes(char) || char < " ") throw this.#unknown(this.#at - 1);
      else body += char === "[" || char === "^" ? `\\x${char.charCodeAt(0).toString(16)}` : char;
    }
    if (body === "" || /^-|-$/.test(body.replace(/^-|-$/g, ""))) throw this.#unknown();
    body = body.replace(/^-/, "\\x2D").replace(/(?<!\\x2)-$/, "\\x2D");
    return negated ? `[^${body}${UNSAFE}]` : `[${body}]`;
  }

  #classEscape(): string {
    const char = this.#next();
    const known = CLASSES[char];
    if (known !== undefined) return known;
    // What JSON would have to escape cannot be one element of a class.
    if (/[a-zA-Z0-9"\\]/.test(char)) throw this.#unknown(this.#at - 2);
    return `\\x${char.charCodeAt(0).toString(16).padStart(2, "0")}`;
  }

  #escape(): string {
    const char = this.#next();
    const known = CLASSES[char];
    if (known !== undefined) return `[${known}]`;
    if (char === "D" || char === "W" || char === "S") return `[^${CLASSES[char.toLowerCase()]}${UNSAFE}]`;
    if (/[a-zA-Z0-9]/.test(char)) throw this.#unknown(this.#at - 2);
    return plain(char);
  }

  #repeated(atom: Piece): Piece {
    const rest = this.#text.slice(this.#at);
    const found = /^(?:([*+?])|\{(\d{1,4})(,(\d{0,4}))?\})/.exec(rest);
    if (!found) return atom;
    this.#at += found[0].length;
    if (/^[?+]/.test(this.#text.slice(this.#at))) this.#at += 1; // lazy and possessive match the same texts
    const [least, most] = counts(found);
    if (least > most || least > LIMITS.repeat || (most !== Number.POSITIVE_INFINITY && most > LIMITS.repeat)) {
      throw new SchemaError(this.#path, `it repeats more than ${LIMITS.repeat} times`);
    }
    if (isEmpty(atom.part)) {
      if (most === 1) return atom;
      throw new SchemaError(this.#path, "the pattern repeats something that may be empty");
    }
    const text = repeat(this.#grammar.rule("atom", atom.text), least, most);
    return { text, part: { kind: "times", part: atom.part, least, most } };
  }

  #peek = (): string => this.#text.charAt(this.#at);

  /** One whole character, also beyond the basic plane. */
  #next(): string {
    const point = this.#text.codePointAt(this.#at);
    if (point === undefined) throw this.#unknown();
    const char = String.fromCodePoint(point);
    this.#at += char.length;
    return char;
  }

  #take(text: string): boolean {
    if (!this.#text.startsWith(text, this.#at)) return false;
    this.#at += text.length;
    return true;
  }

  #unknown(at = this.#at): SchemaError {
    const where = this.#text.slice(at, at + 10);
    return new SchemaError(
      this.#path,
      `the pattern has something that this runtime cannot enforce at ${JSON.stringify(where)}`,
    );
  }
}

function counts(found: RegExpExecArray): [least: number, most: number] {
  if (found[1] === "?") return [0, 1];
  if (found[1] !== undefined) return [found[1] === "+" ? 1 : 0, Number.POSITIVE_INFINITY];
  const least = Number(found[2]);
  if (found[3] === undefined) return [least, least];
  return [least, found[4] ? Number(found[4]) : Number.POSITIVE_INFINITY];
}

/** One character as JSON writes it. */
const plain = (char: string): string => literal(JSON.stringify(char).slice(1, -1));
