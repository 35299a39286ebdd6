import { describe, expect, test } from "vitest";
import type { GenerateRequest, Prompt } from "../../src/api/backend.ts";
import published from "./published/keywords.json" with { type: "json" };
import { keywordReply, planReply } from "./reply.ts";

const chat = (content: string, more: object = {}): Prompt => ({
  kind: "chat",
  messages: [{ role: "user", content }],
  ...more,
});
type Given = Partial<Pick<GenerateRequest, "prompt" | "responseFormat" | "stop">>;
const plan = (text: string, given: Given = {}, length = 6, room = 100) =>
  planReply({ prompt: chat(text), responseFormat: { type: "text" }, stop: [], ...given }, { text, length, room });
const shown = (reply: ReturnType<typeof plan>) => reply.tokens.map((t) => t.text).join("");

test.each(published.vectors)("published reply to $text in $replyTokens tokens", ({ text, replyTokens, reply }) => {
  expect(shown(plan(text, {}, replyTokens))).toBe(reply);
});

test("a keyword is a whole word in any case, and the table's order decides", () => {
  expect(keywordReply("PING?")).toBe("pong");
  expect(keywordReply("shopping")).toBe(published.default);
  expect(keywordReply("ping the plan")).toBe(keywordReply("plan"));
});

test("every keyword can be reached", () => {
  for (const { keyword, reply } of published.keywords) expect(keywordReply(keyword)).toBe(reply);
});

describe("stop strings", () => {
  test.each([
    ["inside a token", ["rom"], "Hello f", 2],
    ["over three tokens", ["m the s"], "Hello fro", 4],
    ["at the start", ["H"], "", 1],
    ["the first to be complete", ["the stub", " t"], "Hello from", 3],
    ["of two complete at once the longer", ["the", " the"], "Hello from", 3],
    ["absent", ["zebra"], "Hello from the stub. alpha", 6],
  ])("%s", (_, stop, text, tokens) => {
    const reply = plan("hello", { stop });
    expect(shown(reply)).toBe(text);
    expect(reply.tokens).toHaveLength(tokens);
    expect(reply.finishReason).toBe("stop");
  });

  test("behind the room it does not count", () => {
    expect(plan("hello", { stop: ["stub"] }, 6, 2)).toMatchObject({
      finishReason: "length",
      tokens: [{ text: "Hello" }, { text: " from" }],
    });
  });
});

describe("tools", () => {
  const tools = [
    { type: "function" as const, function: { name: "ls" } },
    { type: "function" as const, function: { name: "cat_file" } },
  ];
  test.each([
    ["auto, named", "please cat_file x", "auto", "cat_file"],
    ["auto, not named", "please do", "auto", undefined],
    ["none", "ls", "none", undefined],
    ["required, none named", "please do", "required", "ls"],
    ["required, one named", "cat_file", "required", "cat_file"],
    ["forced", "ls", { name: "cat_file" }, "cat_file"],
  ])("%s", (_, text, toolChoice, want) => {
    expect(plan(text, { prompt: chat(text, { tools, toolChoice }) }).call?.name).toBe(want);
  });

  test("after a tool's answer the agent's loop ends", () => {
    const prompt: Prompt = {
      kind: "chat",
      tools,
      messages: [
        { role: "user", content: "ls" },
        { role: "tool", content: "a", tool_call_id: "c" },
      ],
    };
    expect(plan("ls", { prompt }).call).toBeUndefined();
  });
});

test("JSON answers are one smallest value", () => {
  expect(shown(plan("x", { responseFormat: { type: "json_object" } }))).toBe("{}");
  const schema = { type: "object", properties: { n: { type: "integer", minimum: 3 } }, required: ["n"] };
  expect(shown(plan("x", { responseFormat: { type: "json_schema", schema } }))).toBe('{"n":3}');
});
