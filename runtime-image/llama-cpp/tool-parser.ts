import { overlap } from "./stop.ts";
import { CALL_CLOSE, CALL_OPEN } from "./tool-text.ts";

export interface ParsedCall {
  name: string;
  /** JSON text. */
  arguments: string;
}

export type ParsedPart = { text: string } | { call: ParsedCall };

/** Longest call that is waited for, in characters; what is longer was no call. */
const LONGEST_CALL = 1_000_000;

/**
 * Finds tool calls in an answer as it comes: `<tool_call>{…}</tool_call>` anywhere, and bare JSON (`{"name": …, "arguments": …}`, a list
 * of such, several with `;` or newlines between) where the answer begins with it. What looked like a call and is none comes as text.
 *
 * States: `start` (nothing but white space yet), `text`, `tagged` (inside the tags), `json` (inside a bare value), `between` (behind a call,
 * where separators belong to nobody).
 */
export class ToolParser {
  readonly #names: ReadonlySet<string>;
  #state: "start" | "text" | "tagged" | "json" | "between" = "start";
  #held = "";
  #scan = new JsonScan();
  /** Closing tags before this place of a tagged body are text within its JSON. */
  #from = 0;
  /** No more text comes. */
  #ended = false;

  /** @param names the functions that exist: bare JSON is a call only when it names one of them. */
  constructor(names: Iterable<string>) {
    this.#names = new Set(names);
  }

  push(piece: string): ParsedPart[] {
    this.#held += piece;
    const parts: ParsedPart[] = [];
    while (this.#step(parts));
    return parts;
  }

  /** What is left when the answer ends. */
  flush(): ParsedPart[] {
    const rest = this.#held;
    this.#held = "";
    const tagged = this.#state === "tagged";
    this.#state = "text";
    if (!tagged) return rest === "" ? [] : [{ text: rest }];
    // Models often end their turn in place of the closing tag.
    const calls = parseCalls(rest);
    if (calls) return calls.map((call) => ({ call }));
    const at = rest.indexOf(CALL_CLOSE);
    if (at === -1) return [{ text: CALL_OPEN + rest }];
    // The tag was taken for text, in a string that never ended: the call is damaged, and what follows it perhaps is not.
    const end = at + CALL_CLOSE.length;
    this.#ended = true;
    return [{ text: CALL_OPEN + rest.slice(0, end) }, ...this.push(rest.slice(end)), ...this.flush()];
  }

  /** One move; false when more text is needed. */
  #step(parts: ParsedPart[]): boolean {
    if (this.#state === "between") this.#held = this.#held.replace(/^[\s;,]+/, "");
    if (this.#state === "start" || this.#state === "between") return this.#start();
    if (this.#state === "text") return this.#text(parts);
    if (this.#state === "tagged") return this.#tagged(parts);
    return this.#json(parts);
  }

  #start(): boolean {
    const first = /\S/.exec(this.#held)?.[0];
    if (first === undefined) return false;
    this.#state = first === "{" || first === "[" ? "json" : "text";
    this.#scan = new JsonScan();
    return true;
  }

  #text(parts: ParsedPart[]): boolean {
    const at = this.#held.indexOf(CALL_OPEN);
    const certain = at === -1 ? this.#held.length - overlap(this.#held, CALL_OPEN) : at;
    if (certain > 0) parts.push({ text: this.#held.slice(0, certain) });
    this.#held = this.#held.slice(certain);
    if (at === -1) return false;
    this.#held = this.#held.slice(CALL_OPEN.length);
    this.#state = "tagged";
    this.#scan = new JsonScan();
    this.#from = 0;
    return true;
  }

  #tagged(parts: ParsedPart[]): boolean {
    const at = this.#closingTag();
    if (at === -1 && this.#held.length < LONGEST_CALL) return false;
    const body = at === -1 ? this.#held : this.#held.slice(0, at);
    const calls = parseCalls(body);
    if (calls) parts.push(...calls.map((call) => ({ call })));
    else parts.push({ text: at === -1 ? CALL_OPEN + body : CALL_OPEN + body + CALL_CLOSE });
    this.#held = at === -1 ? "" : this.#held.slice(at + CALL_CLOSE.length);
    this.#state = calls ? "between" : "text";
    return true;
  }

  /** Where the first closing tag is that is not text within the body's JSON; -1 when it has not come. */
  #closingTag(): number {
    const isJson = !this.#ended && /^\s*[[{]/.test(this.#held);
    for (;;) {
      const at = this.#held.indexOf(CALL_CLOSE, this.#from);
      if (at === -1) return -1;
      if (!isJson || this.#scan.end(this.#held.slice(0, at)) !== undefined || !this.#scan.inText) return at;
      this.#from = at + 1;
    }
  }

  #json(parts: ParsedPart[]): boolean {
    const end = this.#scan.end(this.#held);
    if (end === undefined && this.#held.length < LONGEST_CALL) return false;
    const value = end === undefined ? "" : this.#held.slice(0, end);
    const calls = parseCalls(value)?.filter((call) => this.#names.has(call.name));
    if (!calls || calls.length === 0) {
      this.#state = "text";
      return true;
    }
    parts.push(...calls.map((call) => ({ call })));
    this.#held = this.#held.slice(value.length);
    this.#state = "between";
    return true;
  }
}

/** The calls that a JSON text holds, or undefined when it is none. */
function parseCalls(text: string): ParsedCall[] | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  const list = Array.isArray(value) ? value : [value];
  const calls = list.map(asCall);
  return calls.length > 0 && calls.every((call) => call !== undefined) ? calls : undefined;
}

/** Also the forms `{"function": {…}}` and Llama's `parameters`. */
function asCall(value: unknown): ParsedCall | undefined {
  if (!isObject(value)) return undefined;
  const call = isObject(value.function) ? value.function : value;
  if (typeof call.name !== "string" || call.name === "") return undefined;
  const args = call.arguments ?? call.parameters ?? {};
  if (!isObject(args) && typeof args !== "string") return undefined;
  return { name: call.name, arguments: typeof args === "string" ? args : JSON.stringify(args) };
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  value !== null && typeof value === "object" && !Array.isArray(value);

/** Finds where the object or list ends that a text begins with. Looks at each character once, however often it is asked. */
export class JsonScan {
  #at = 0;
  #depth = 0;
  #inText = false;
  #escaped = false;

  /** Whether what was looked at ends within a string. */
  get inText(): boolean {
    return this.#inText;
  }

  /** Index behind the closing bracket in `text`, which only grows from call to call; undefined while it is open. */
  end(text: string): number | undefined {
    for (; this.#at < text.length; this.#at++) {
      const c = text.charAt(this.#at);
      if (this.#escaped) this.#escaped = false;
      else if (this.#inText) {
        if (c === "\\") this.#escaped = true;
        else if (c === '"') this.#inText = false;
      } else if (c === '"') this.#inText = true;
      else if (c === "{" || c === "[") this.#depth += 1;
      else if ((c === "}" || c === "]") && --this.#depth === 0) return this.#at + 1;
    }
    return undefined;
  }
}
