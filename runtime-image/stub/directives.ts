import { createHash } from "node:crypto";
import type { z } from "zod";
import type { Prompt } from "../../src/api/backend.ts";
import type { StubKnobs } from "../../src/api/instance.ts";
import { LLMPoolError } from "../../src/lib/errors.ts";

/** What one request asks of the simulator: the pool's knobs, changed by a first line `!stub name=value …` of the text. */
export interface Behaviour {
  ttftMs: number;
  interTokenMs: number;
  replyTokens: number;
  errorRate: number;
  /** Before which token (counted from 0) each fault strikes. */
  crashAt?: number;
  breakAt?: number;
  stallAt?: number;
  hangAt?: number;
  /** Ends the process with this code before the first token. */
  exitCode?: number;
  /** Memory to take and keep, in MiB. */
  leakMiB?: number;
  /** Answer with what the session's cache held before this request. */
  recall: boolean;
}

interface Directive {
  /** The value when it is written without one. Absent: it needs one. */
  bare?: number;
  set(value: number, text: string, replyTokens: number): Partial<Behaviour>;
}

const DIRECTIVES: Record<string, Directive> = {
  ttftMs: { set: (ttftMs) => ({ ttftMs }) },
  interTokenMs: { set: (interTokenMs) => ({ interTokenMs }) },
  replyTokens: { set: (n) => ({ replyTokens: Math.max(1, Math.floor(n)) }) },
  vary: { bare: 0, set: (_, text, replyTokens) => ({ replyTokens: variedLength(text, replyTokens) }) },
  recall: { bare: 0, set: () => ({ recall: true }) },
  fail: { bare: 1, set: (errorRate) => ({ errorRate }) },
  break: { bare: 0, set: (breakAt) => ({ breakAt }) },
  stall: { bare: 0, set: (stallAt) => ({ stallAt }) },
  hang: { bare: 0, set: (hangAt) => ({ hangAt }) },
  crash: { bare: 0, set: (crashAt) => ({ crashAt }) },
  exit: { bare: 1, set: (exitCode) => ({ exitCode }) },
  leak: { bare: 4096, set: (leakMiB) => ({ leakMiB }) },
};

/** Reads the text that decides the answer. `text` is that text without its directive line. Throws `invalid_request` for an unknown directive. */
export function readBehaviour(
  prompt: Prompt,
  knobs: z.infer<typeof StubKnobs>,
): { text: string; behaviour: Behaviour } {
  const whole = decisiveText(prompt);
  const behaviour: Behaviour = { ...knobs, recall: false };
  const line = /^!stub(?: |\n|$)/.test(whole) ? (whole.split("\n", 1)[0] ?? "") : undefined;
  if (line === undefined) return { text: whole, behaviour };
  for (const word of line.split(/ +/).slice(1)) {
    if (word === "") continue;
    const [name = "", value] = word.split("=", 2);
    const directive = Object.hasOwn(DIRECTIVES, name) ? DIRECTIVES[name] : undefined;
    const number = value === undefined ? directive?.bare : Number(value || Number.NaN);
    if (!directive || number === undefined || !(number >= 0)) {
      const known = Object.keys(DIRECTIVES).join(", ");
      throw new LLMPoolError(
        "invalid_request",
        `!stub takes name or name=number out of ${known}; not "${word.slice(0, 40)}"`,
      );
    }
    Object.assign(behaviour, directive.set(number, whole, behaviour.replyTokens));
  }
  return { text: whole.slice(line.length + 1), behaviour };
}

/** The last user message, else the last message; of a raw prompt all of it. */
function decisiveText(prompt: Prompt): string {
  if (prompt.kind === "raw") return prompt.text;
  const message = prompt.messages.findLast((m) => m.role === "user") ?? prompt.messages.at(-1);
  return message?.content ?? "";
}

/** 1 to 2n-1, evenly, by the text. */
function variedLength(text: string, n: number): number {
  return 1 + (hash32(text) % (2 * n - 1));
}

/** True for `rate` of all request ids, the same ones every time. */
export function isUnlucky(requestId: string, rate: number): boolean {
  return hash32(requestId) / 2 ** 32 < rate;
}

/** The first four bytes, big-endian, of SHA-256 of the UTF-8 text. */
function hash32(text: string): number {
  return createHash("sha256").update(text.toWellFormed()).digest().readUInt32BE(0);
}
