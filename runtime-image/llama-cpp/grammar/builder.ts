import { LIMITS, SchemaError } from "./limits.ts";

/**
 * Writes grammars in GBNF (https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md). Every grammar here describes one JSON
 * value with at most one space behind `:` and `,`: white space without end is what models run away with.
 */
export class GrammarBuilder {
  readonly #rules = new Map<string, string>();
  readonly #names = new Map<string, string>();
  #bytes = 0;
  #repeats = 0;
  #steps = 0;

  /** What may still be spent on the whole grammar. */
  get stepsLeft(): number {
    return LIMITS.steps - this.#steps;
  }

  spend(steps: number): void {
    this.#steps += steps;
    if (this.#steps > LIMITS.steps) throw new SchemaError("", "it takes too long to compile");
  }

  /** Adds a rule with the given body and returns its name. The same body gets the same rule. */
  rule(hint: string, body: string): string {
    const known = this.#names.get(body);
    if (known !== undefined) return known;
    const name = this.reserve(hint);
    this.#names.set(body, name);
    this.define(name, body);
    return name;
  }

  /** A name for a rule that refers to itself; `define` must follow. */
  reserve(hint: string): string {
    const name = `${hint.replace(/[^a-zA-Z0-9]+/g, "-").slice(0, 30)}-${this.#rules.size}`;
    this.#rules.set(name, "");
    return name;
  }

  define(name: string, body: string): void {
    this.#count(name.length, body);
    this.#rules.set(name, body);
  }

  #count(nameLength: number, body: string): void {
    this.#bytes += nameLength + body.length;
    for (const [, least, most] of body.replace(LITERALS, "").matchAll(/\{(\d+)(?:,(\d*))?\}/g))
      this.#repeats += Number(most || least);
    if (this.#rules.size > LIMITS.rules || this.#bytes > LIMITS.grammarBytes || this.#repeats > LIMITS.repeats)
      throw new SchemaError("", "it makes too large a grammar");
  }

  /**
   * What an expression begins with, as far as that is certain: the text of its literals, with spaces left out; `0` for any number. Two that
   * differ in it cannot be mistaken for each other.
   */
  head(expression: string): string {
    let head = "";
    let rest = expression;
    for (let rules = 0; rules < LIMITS.depth; ) {
      const [found = "", text, name] = HEAD.exec(rest) ?? [];
      rest = rest.slice(found.length);
      if (text !== undefined) head += text;
      else if (name === "ws") continue;
      else if (name === undefined) break;
      else if (name in BEGINS) return head + BEGINS[name];
      else if (name.startsWith("number-")) return `${head}0`;
      else {
        const body = this.#rules.get(name) ?? "";
        if (hasChoice(body)) break;
        rest = `${body} ${rest}`;
        rules++;
      }
    }
    if (/^(-|\d)/.test(head) || (head === "" && /^\s*\[\d/.test(rest))) return "0";
    return head;
  }

  /** The whole grammar. */
  text(root: string): string {
    this.#count(0, root);
    const used = [...this.#rules].map(([name, body]) => `${name} ::= ${body}`);
    return `root ::= ${root}\n${used.join("\n")}\n${JSON_RULES}`;
  }
}

/** Quoted texts and classes. */
const LITERALS = /"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]/gs;
/** A literal or the name of a rule at the beginning, neither repeated. */
const HEAD = /^\s*(?:"((?:[^"\\]|\\.)*)"|([a-zA-Z][a-zA-Z0-9-]*))(?![*+?{a-zA-Z0-9-])/s;
/** The rules that every grammar has. */
const BEGINS: Record<string, string> = { object: "{", array: "[", string: '\\"', number: "0", integer: "0", value: "" };

function hasChoice(body: string): boolean {
  let outside = body.replace(LITERALS, "");
  for (let inside = ""; inside !== outside; ) {
    inside = outside;
    outside = outside.replace(/\([^()]*\)/g, "");
  }
  return outside.includes("|");
}

/** Any JSON: the rules that every grammar may use. */
const JSON_RULES = `ws ::= " "?
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ( member ( "," ws member )* )? "}"
member ::= string ":" ws value
array ::= "[" ( value ( "," ws value )* )? "]"
string ::= "\\"" char* "\\""
char ::= unit | "\\\\u" hex hex hex hex
unit ::= [^"\\\\\\x7F\\x00-\\x1F] | "\\\\" ["\\\\/bfnrt]
hex ::= [0-9a-fA-F]
number ::= integer fraction? ( [eE] [-+]? [0-9]{1,3} )?
integer ::= "-"? ( "0" | [1-9] [0-9]{0,15} )
fraction ::= "." [0-9]{1,16}
`;

/** A text as it stands. */
export function literal(text: string): string {
  const escaped = text.replace(/["\\]/g, "\\$&").replace(/\n/g, "\\n").replace(/\r/g, "\\r").replace(/\t/g, "\\t");
  return `"${escaped}"`;
}

/** `item` from `least` to `most` times; Infinity for no limit. `item` must be a rule or a group. */
export function repeat(item: string, least: number, most: number): string {
  if (most === 0) return '""';
  if (least === 0 && most === 1) return `${item}?`;
  if (most !== Number.POSITIVE_INFINITY) return `${item}{${least},${most}}`;
  return least === 0 ? `${item}*` : `${item}{${least},}`;
}

export const anyOf = (choices: readonly string[]): string =>
  choices.length === 1 ? (choices[0] ?? "") : `( ${[...new Set(choices)].join(" | ")} )`;
