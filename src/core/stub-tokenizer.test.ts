import fc from "fast-check";
import { expect, test } from "vitest";
import type { ChatMessage, Prompt } from "../api/backend.ts";
import published from "./published/stub-tokenizer.json" with { type: "json" };
import { countStubPieces, countStubPrompt, stubPieces, stubPromptTokens } from "./stub-tokenizer.ts";

/** Texts near the rule's edges: words of many lengths, spaces, pairs and lone surrogates. */
const text = fc
  .array(
    fc.oneof(
      fc.constantFrom(" ", "  ", "a", "ab_", "word12345678", "\n", "é", "😀", "\ud800", "\udc00"),
      fc.string({ unit: "binary" }),
    ),
  )
  .map((parts) => parts.join(""));
const message: fc.Arbitrary<ChatMessage> = fc.record({
  role: fc.constantFrom("system", "developer", "user", "assistant", "tool"),
  content: fc.option(text),
  tool_calls: fc.array(
    fc.record({
      id: fc.string(),
      type: fc.constant("function" as const),
      function: fc.record({ name: text, arguments: text }),
    }),
    { maxLength: 2 },
  ),
});
const prompt: fc.Arbitrary<Prompt> = fc.oneof(
  fc.record({ kind: fc.constant("raw" as const), text }),
  fc.record({
    kind: fc.constant("chat" as const),
    messages: fc.array(message, { maxLength: 4 }),
    tools: fc.array(fc.record({ type: fc.constant("function" as const), function: fc.record({ name: text }) }), {
      maxLength: 2,
    }),
  }),
);

test.each(published.vectors.pieces)("published pieces of %j", ({ text, tokens }) => {
  expect(stubPieces(text)).toEqual(tokens);
});

test.each(published.vectors.prompts)("published prompt %#", ({ tokens, ...rest }) => {
  expect(stubPromptTokens({ kind: "chat", ...rest } as Prompt)).toEqual(tokens);
});

test("counting gives the number of tokens", () => {
  fc.assert(fc.property(text, (t) => countStubPieces(t) === stubPieces(t).length));
  fc.assert(fc.property(prompt, (p) => countStubPrompt(p) === stubPromptTokens(p).length));
});

test("pieces join to the text, and each is a word or one sign", () => {
  fc.assert(
    fc.property(text, (t) => {
      const pieces = stubPieces(t);
      expect(pieces.join("")).toBe(t.toWellFormed());
      for (const piece of pieces) expect(/^ ?\w{1,8}$/.test(piece) || [...piece].length === 1).toBe(true);
    }),
  );
});

test("the pieces of a cut text are a prefix of the text's pieces, when cut between two", () => {
  fc.assert(
    fc.property(text, fc.nat(50), (t, cut) => {
      const head = stubPieces(t).slice(0, cut);
      expect(stubPieces(head.join(""))).toEqual(head);
    }),
  );
});

test("never more tokens than UTF-8 bytes, so that a bound by bytes holds", () => {
  fc.assert(fc.property(text, (t) => stubPieces(t).length <= Buffer.byteLength(t)));
});

test("a text of a million signs does not overflow the stack", () => {
  const long: Prompt = { kind: "chat", messages: [{ role: "user", content: "!".repeat(1_000_000) }] };
  expect(stubPromptTokens(long).length).toBe(1_000_003);
});
