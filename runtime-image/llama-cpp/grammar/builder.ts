import { LIMITS, SchemaError } from "./limits.ts";

/**
 * Writes grammars in GBNF (https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md). Every grammar here describes one JSON
 * value with at most one space behind `:` and `,`: white space without end is what models run away with.
 */
export class GrammarBuilder {
  readonly #rules = new Map<string, string>();
  readonly #names = new Map<string, string>();
  #bytes = 0;

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
    this.#bytes += name.length + body.length;
    if (this.#rules.size > LIMITS.rules || this.#bytes > LIMITS.grammarBytes)
      throw new SchemaError("", "it makes too large a grammar");
    this.#rules.set(name, body);
  }

  /** The whole grammar. */
  text(root: string): string {
    const used = [...this.#rules].map(([name, body]) => `${name} ::= ${body}`);
    return `root ::= ${root}\n${used.join("\n")}\n${JSON_RULES}`;
  }
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
