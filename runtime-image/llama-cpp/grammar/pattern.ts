import { anyOf, type GrammarBuilder, literal, repeat } from "./builder.ts";
import { LIMITS, SchemaError } from "./limits.ts";

/** What a JSON text cannot hold unescaped. */
const UNSAFE = '\\"\\\\\\x7F\\x00-\\x1F';
const CLASSES: Record<string, string> = { d: "0-9", w: "a-zA-Z0-9_", s: " " };

/**
 * A JSON Schema `pattern` as the inside of a JSON string. A text that matches as a whole also matches somewhere, so an expression without
 * anchors is taken as if it had both. Known: literals, `.`, classes, `\d \w \s`, groups, `|`, `* + ? {m,n}`.
 */
export function patternBody(source: string, grammar: GrammarBuilder, path: string): string {
  const parser = new PatternParser(source.replace(/^\^/, "").replace(/(?<!\\)\$$/, ""), grammar, path);
  return parser.all();
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

  all(): string {
    const body = this.#choices();
    if (this.#at < this.#text.length) throw this.#unknown();
    return body;
  }

  #choices(): string {
    const choices = [this.#sequence()];
    while (this.#take("|")) choices.push(this.#sequence());
    return anyOf(choices);
  }

  #sequence(): string {
    const parts: string[] = [];
    while (this.#at < this.#text.length && !"|)".includes(this.#peek())) parts.push(this.#repeated(this.#atom()));
    return parts.length === 0 ? '""' : parts.join(" ");
  }

  #atom(): string {
    if (this.#take("(")) return this.#group();
    if (this.#take("[")) return this.#class();
    if (this.#take(".")) return `[^${UNSAFE}]`;
    if (this.#take("\\")) return this.#escape();
    const char = this.#next();
    if ("*+?{}^$]".includes(char)) throw this.#unknown(this.#at - 1);
    return plain(char);
  }

  #group(): string {
    if (this.#peek() === "?" && !this.#take("?:")) throw this.#unknown();
    if (++this.#depth > LIMITS.depth) throw new SchemaError(this.#path, "its groups are nested too deeply");
    const body = this.#choices();
    if (!this.#take(")")) throw this.#unknown();
    this.#depth -= 1;
    return this.#grammar.rule("group", body);
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

  #repeated(atom: string): string {
    const rest = this.#text.slice(this.#at);
    const found = /^(?:([*+?])|\{(\d{1,4})(,(\d{0,4}))?\})/.exec(rest);
    if (!found) return atom;
    this.#at += found[0].length;
    if (/^[?+]/.test(this.#text.slice(this.#at))) this.#at += 1; // lazy and possessive match the same texts
    const [least, most] = counts(found);
    if (least > most || least > LIMITS.repeat || (most !== Number.POSITIVE_INFINITY && most > LIMITS.repeat)) {
      throw new SchemaError(this.#path, `it repeats more than ${LIMITS.repeat} times`);
    }
    return repeat(this.#grammar.rule("atom", atom), least, most);
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
