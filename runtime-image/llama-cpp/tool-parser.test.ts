import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type ParsedPart, ToolParser } from "./tool-parser.ts";

/** What comes out when an answer is cut into `pieces`: the text of neighbours joined. */
function parse(pieces: string[]): ParsedPart[] {
  const parser = new ToolParser(["get_weather", "add"]);
  const parts: ParsedPart[] = [];
  for (const part of [...pieces.flatMap((piece) => parser.push(piece)), ...parser.flush()]) {
    const last = parts.at(-1);
    if ("text" in part && last && "text" in last) last.text += part.text;
    else parts.push({ ...part });
  }
  return parts;
}

const weather = { call: { name: "get_weather", arguments: '{"city":"Oslo"}' } };
const add = { call: { name: "add", arguments: '{"a":1,"b":"}</tool"}' } };
/** Of what a call of `add` may be about: the closing tag itself. */
const about = (b: string) => ({ call: { name: "add", arguments: JSON.stringify({ b }) } });
const tag = "</tool_call>";
const ROWS: { name: string; answer: string; want: ParsedPart[] }[] = [
  { name: "plain text", answer: "It is warm.", want: [{ text: "It is warm." }] },
  {
    name: "a Hermes call",
    answer: '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
    want: [weather],
  },
  {
    name: "text, then two calls",
    answer:
      'Let me look. <tool_call>{"name":"get_weather","arguments":{"city":"Oslo"}}</tool_call>\n<tool_call>{"name":"add","arguments":{"a":1,"b":"}</tool"}}</tool_call>',
    want: [{ text: "Let me look. " }, weather, add],
  },
  {
    name: "a call whose closing tag never came",
    answer: '<tool_call>{"name":"get_weather","arguments":{"city":"Oslo"}}',
    want: [weather],
  },
  {
    name: "bare JSON with parameters",
    answer: ' {"name": "get_weather", "parameters": {"city": "Oslo"}}',
    want: [weather],
  },
  {
    name: "several bare calls",
    answer: '{"name":"get_weather","arguments":{"city":"Oslo"}}; {"name":"add","arguments":{"a":1,"b":"}</tool"}}',
    want: [weather, add],
  },
  {
    name: "a list of calls, with arguments as text",
    answer:
      '[{"function":{"name":"get_weather","arguments":"{\\"city\\":\\"Oslo\\"}"}},{"name":"add","arguments":{"a":1,"b":"}</tool"}}]',
    want: [weather, add],
  },
  { name: "a call without arguments", answer: '{"name":"add"}', want: [{ call: { name: "add", arguments: "{}" } }] },
  {
    name: "JSON that is no call",
    answer: '{"name":"Oslo","country":"NO"} ok',
    want: [{ text: '{"name":"Oslo","country":"NO"} ok' }],
  },
  { name: "JSON in the middle", answer: 'See {"name":"add"}', want: [{ text: 'See {"name":"add"}' }] },
  {
    name: "damaged JSON in tags",
    answer: "<tool_call>{oops}</tool_call> x",
    want: [{ text: "<tool_call>{oops}</tool_call> x" }],
  },
  { name: "an open tag at the end", answer: "a <tool_c", want: [{ text: "a <tool_c" }] },
  { name: "cut off inside a call", answer: '<tool_call>{"name":"ad', want: [{ text: '<tool_call>{"name":"ad' }] },
  {
    name: "a closing tag as an argument, then another call",
    answer: `<tool_call> {"name":"add","arguments":{"b":"\\"${tag} <tool_call>${tag}"}}${tag}<tool_call>{"name":"get_weather","arguments":{"city":"Oslo"}}${tag}`,
    want: [about(`"${tag} <tool_call>${tag}`), weather],
  },
  {
    name: "a list whose argument is a closing tag",
    answer: `<tool_call>[{"name":"add","arguments":{"b":"${tag}"}}]\n${tag}`,
    want: [about(tag)],
  },
  {
    name: "a closing tag as an argument where the last one never came",
    answer: `<tool_call>{"name":"add","arguments":{"b":"${tag}"}}`,
    want: [about(tag)],
  },
  {
    name: "JSON that is cut by the closing tag, and goes on",
    answer: `<tool_call>{"name":"add"${tag} and <tool_call>{"name":"add"}${tag}`,
    want: [{ text: `<tool_call>{"name":"add"${tag} and ` }, { call: { name: "add", arguments: "{}" } }],
  },
  {
    name: "a string that never ends, then a whole call",
    answer: `<tool_call>{"name":"add}${tag}<tool_call>{"name":"get_weather","arguments":{"city":"Oslo"}}${tag}.`,
    want: [{ text: `<tool_call>{"name":"add}${tag}` }, weather, { text: "." }],
  },
  {
    name: "words with a quotation mark in tags",
    answer: `<tool_call>5" {wide${tag}"`,
    want: [{ text: `<tool_call>5" {wide${tag}"` }],
  },
  { name: "white space only", answer: " \n", want: [{ text: " \n" }] },
];

describe("ToolParser", () => {
  it.each(ROWS)("reads $name", ({ answer, want }) => {
    expect(parse([answer])).toEqual(want);
  });

  it("reads the same however the answer is cut", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...ROWS),
        fc.infiniteStream(fc.integer({ min: 1, max: 9 })),
        ({ answer, want }, sizes) => {
          const pieces: string[] = [];
          for (let at = 0; at < answer.length; ) {
            const size = sizes.next().value ?? 1;
            pieces.push(answer.slice(at, at + size));
            at += size;
          }
          expect(parse(pieces)).toEqual(want);
        },
      ),
    );
  });
});
