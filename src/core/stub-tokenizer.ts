import type { Prompt } from "../api/backend.ts";
import published from "./published/stub-tokenizer.json" with { type: "json" };

/**
 * The stub backend's tokenizer and chat template, as docs/stub.md tells them and published/stub-tokenizer.json holds them. A token is its
 * text: a piece of the input, or one of the template's marks, which no input can produce because a piece that begins with a sign is one
 * sign long. A prefix of the pieces of a text is the pieces of that prefix, so an answer that comes back in the next prompt hits the cache.
 */
const PIECE = new RegExp(published.piece, "gu");
const MAX_WORD = 8;

/** The template's marks. */
export const STUB_MARKS = {
  role: published.role,
  end: published.end,
  tools: published.tools,
  call: published.call,
  arguments: published.arguments,
} as const;

/** Text to tokens. Lone surrogates count as U+FFFD. */
export function stubPieces(text: string): string[] {
  return text.toWellFormed().match(PIECE) ?? [];
}

/** What `stubPieces` would return the length of, without making it: the router counts every prompt. */
export function countStubPieces(text: string): number {
  let count = 0;
  let i = 0;
  while (i < text.length) {
    const code = text.charCodeAt(i);
    const start = code === SPACE && isWord(text.charCodeAt(i + 1)) ? i + 1 : i;
    let end = start;
    while (end < start + MAX_WORD && isWord(text.charCodeAt(end))) end += 1;
    if (end > start) i = end;
    else i += isPair(code, text.charCodeAt(i + 1)) ? 2 : 1;
    count += 1;
  }
  return count;
}

/** The tokens that a prompt becomes. Names and ids of tool calls are not part of it. */
export function stubPromptTokens(prompt: Prompt): string[] {
  if (prompt.kind === "raw") return stubPieces(prompt.text);
  const tokens: string[] = [];
  // No push(...pieces): a long text would overflow the stack.
  const add = (text: string) => {
    for (const piece of stubPieces(text)) tokens.push(piece);
  };
  walkTemplate(prompt, (mark) => tokens.push(mark), add);
  return tokens;
}

/** The length of `stubPromptTokens`. */
export function countStubPrompt(prompt: Prompt): number {
  if (prompt.kind === "raw") return countStubPieces(prompt.text);
  let count = 0;
  const one = () => {
    count += 1;
  };
  walkTemplate(prompt, one, (text) => {
    count += countStubPieces(text);
  });
  return count;
}

/** The tokens of a call, in a prompt and as generated. */
export function stubCallTokens(call: { name: string; arguments: string }): string[] {
  return [STUB_MARKS.call, ...stubPieces(call.name), STUB_MARKS.arguments, ...stubPieces(call.arguments)];
}

function walkTemplate(
  prompt: Extract<Prompt, { kind: "chat" }>,
  mark: (mark: string) => void,
  text: (text: string) => void,
): void {
  if (prompt.tools && prompt.tools.length > 0) {
    mark(STUB_MARKS.tools);
    text(JSON.stringify(prompt.tools));
    mark(STUB_MARKS.end);
  }
  for (const message of prompt.messages) {
    mark(STUB_MARKS.role[message.role]);
    text(message.content ?? "");
    for (const call of message.tool_calls ?? []) {
      mark(STUB_MARKS.call);
      text(call.function.name);
      mark(STUB_MARKS.arguments);
      text(call.function.arguments);
    }
    mark(STUB_MARKS.end);
  }
  mark(STUB_MARKS.role.assistant);
}

const SPACE = 0x20;

/** A letter or digit of ASCII, or `_`. NaN, beyond the end of a text, is none. */
function isWord(code: number): boolean {
  return (
    (code >= 0x61 && code <= 0x7a) || (code >= 0x41 && code <= 0x5a) || (code >= 0x30 && code <= 0x39) || code === 0x5f
  );
}

function isPair(high: number, low: number): boolean {
  return high >= 0xd800 && high <= 0xdbff && low >= 0xdc00 && low <= 0xdfff;
}
