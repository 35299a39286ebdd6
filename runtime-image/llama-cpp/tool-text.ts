import type { ToolDefinition } from "../../src/api/backend.ts";

/** Tool use as text, in the form of Hermes models, for chat templates that know nothing of tools. */

export const CALL_OPEN = "<tool_call>";
export const CALL_CLOSE = "</tool_call>";

/** What the system message says of the tools. */
export function describeTools(tools: readonly ToolDefinition[]): string {
  const lines = tools.map(({ function: { name, description, parameters } }) =>
    JSON.stringify({ name, description, parameters }),
  );
  return [
    "You can call these functions:",
    ...lines,
    `To call one, answer with ${CALL_OPEN}{"name": <its name>, "arguments": <object>}${CALL_CLOSE} and nothing else. Otherwise answer in words.`,
  ].join("\n");
}

/** A call that the assistant made earlier. `arguments` is JSON text. */
export function callText(call: { name: string; arguments: string }): string {
  return `${CALL_OPEN}\n{"name": ${JSON.stringify(call.name)}, "arguments": ${call.arguments}}\n${CALL_CLOSE}`;
}

/** What a tool returned, as a user message. */
export const resultText = (content: string): string => `<tool_response>\n${content}\n</tool_response>`;
