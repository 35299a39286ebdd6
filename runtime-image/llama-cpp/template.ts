import { Template } from "@huggingface/jinja";
import type { ChatMessage, ToolCall, ToolDefinition } from "../../src/api/backend.ts";
import { LLMPoolError, messageOf } from "../../src/lib/errors.ts";
import type { ControlTokens } from "./control-tokens.ts";
import { callText, describeTools, resultText } from "./tool-text.ts";

/** A message as templates expect it: text always there, arguments as an object. */
interface TemplateMessage {
  role: string;
  content: string;
  name?: string;
  tool_calls?: { id: string; type: "function"; function: { name: string; arguments: unknown } }[];
  tool_call_id?: string;
}

/** What the model's own template does with things that not every template knows. */
interface Abilities {
  system: boolean;
  developer: boolean;
  tools: boolean;
  toolResults: boolean;
}

/** Unicode noncharacters, which mean nothing in any text; the first that the messages do not hold marks cuts. */
const MARKS = Array.from({ length: 32 }, (_, i) => String.fromCharCode(0xfdd0 + i));

/**
 * The model's own chat template, rendered as Hugging Face's libraries do. What it does not know is said in another way: system text in
 * front of the first user message, tools as text in the system message.
 */
export class ChatTemplate {
  readonly #template: Template;
  readonly #globals: { bos_token: string; eos_token: string };
  readonly #control: ControlTokens;
  readonly can: Abilities;
  /** True where the template itself writes calls in Hermes' tags, so that forced calls do it too. */
  readonly hermesCalls: boolean;

  /** Throws an Error when the source is no template. */
  constructor(source: string, options: { bosToken: string; eosToken: string; control: ControlTokens }) {
    this.#template = new Template(source);
    this.#globals = { bos_token: options.bosToken, eos_token: options.eosToken };
    this.#control = options.control;
    this.can = this.#probe(source);
    this.hermesCalls = !this.can.tools || source.includes("<tool_call>");
  }

  /**
   * The prompt up to where the model answers, in segments to be tokenised one by one.
   * Throws `invalid_request` with the template's own reason when it refuses the messages.
   */
  render(messages: readonly ChatMessage[], tools: readonly ToolDefinition[]): string[] {
    const written = JSON.stringify([messages, tools]);
    const mark = MARKS.find((m) => !written.includes(m));
    if (mark === undefined) throw refused("they hold all 32 noncharacters from U+FDD0");
    const disarm = <T>(value: T): T => mapTexts(value, (text) => this.#control.disarm(text, mark));
    const shown = this.can.tools && tools.length > 0 ? disarm(tools) : undefined;
    try {
      return this.#run(this.#adapt(disarm(messages), disarm(tools)), shown).split(mark);
    } catch (error) {
      throw refused(messageOf(error));
    }
  }

  /** What is not there is none, as in Hugging Face's libraries: templates ask for it by that. */
  #run(messages: TemplateMessage[], tools: readonly ToolDefinition[] | undefined): string {
    const given = { ...this.#globals, messages, documents: null, add_generation_prompt: true };
    try {
      return this.#template.render({ ...given, tools: tools ?? null });
    } catch (error) {
      if (tools) throw error;
      try {
        return this.#template.render({ ...given, tools: [] }); // some walk through the tools without asking whether there are any
      } catch {
        throw error;
      }
    }
  }

  #adapt(messages: readonly ChatMessage[], tools: readonly ToolDefinition[]): TemplateMessage[] {
    let list = messages.map((message) => this.#adaptOne(message));
    if (!this.can.toolResults) list = joinResults(list, messages);
    if (tools.length > 0 && !this.can.tools) list = withSystemText(list, describeTools(tools));
    return this.can.system ? list : systemIntoUser(list);
  }

  #adaptOne(message: ChatMessage): TemplateMessage {
    const content = message.content ?? "";
    const name = message.name === undefined ? {} : { name: message.name };
    if (message.role === "developer" && !this.can.developer) return { role: "system", content, ...name };
    if (message.role === "tool") {
      if (!this.can.toolResults) return { role: "user", content: resultText(content) };
      return {
        role: "tool",
        content,
        ...name,
        ...(message.tool_call_id !== undefined && { tool_call_id: message.tool_call_id }),
      };
    }
    const calls = message.tool_calls ?? [];
    if (calls.length === 0) return { role: message.role, content, ...name };
    if (this.can.toolResults) return { role: message.role, content, ...name, tool_calls: calls.map(templateCall) };
    return {
      role: message.role,
      content: [content, ...calls.map((c) => callText(c.function))].filter(Boolean).join("\n"),
    };
  }

  #probe(source: string): Abilities {
    const shows = (text: string, messages: TemplateMessage[], tools?: ToolDefinition[]): boolean => {
      try {
        return this.#run(messages, tools).includes(text);
      } catch {
        return false;
      }
    };
    const user = { role: "user", content: "q" };
    const call: ToolCall = {
      id: "call00001",
      type: "function",
      function: { name: "probe_call", arguments: '{"a":1}' },
    };
    const conversation = [
      user,
      { role: "assistant", content: "", tool_calls: [templateCall(call)] },
      { role: "tool", content: "probe_result", tool_call_id: call.id, name: "probe_call" },
    ];
    const tool: ToolDefinition = {
      type: "function",
      function: { name: "probe_tool", description: "d", parameters: { type: "object", properties: {} } },
    };
    return {
      system: shows("probe_system", [{ role: "system", content: "probe_system" }, user]),
      developer: source.includes("developer"),
      tools: shows("probe_tool", [user], [tool]),
      toolResults: shows("probe_call", conversation, [tool]) && shows("probe_result", conversation, [tool]),
    };
  }
}

function templateCall(call: ToolCall) {
  let args: unknown = call.function.arguments;
  try {
    args = JSON.parse(call.function.arguments);
  } catch {
    // Not JSON: the template gets the text as it is.
  }
  return { id: call.id, type: "function" as const, function: { name: call.function.name, arguments: args } };
}

/** Results of several calls become one user message: many templates want user and assistant to take turns. */
function joinResults(list: TemplateMessage[], written: readonly ChatMessage[]): TemplateMessage[] {
  const out: TemplateMessage[] = [];
  for (const [i, message] of list.entries()) {
    const last = out.at(-1);
    const joins = written[i]?.role === "tool" && written[i - 1]?.role === "tool" && last;
    if (joins) out[out.length - 1] = { ...last, content: `${last.content}\n${message.content}` };
    else out.push(message);
  }
  return out;
}

function withSystemText(messages: TemplateMessage[], text: string): TemplateMessage[] {
  const [first, ...rest] = messages;
  if (first?.role !== "system") return [{ role: "system", content: text }, ...messages];
  return [{ ...first, content: [first.content, text].filter(Boolean).join("\n\n") }, ...rest];
}

/** For templates without a system role: its text goes in front of the next user message. */
function systemIntoUser(messages: TemplateMessage[]): TemplateMessage[] {
  const out: TemplateMessage[] = [];
  let waiting: string[] = [];
  for (const message of messages) {
    if (message.role === "system") waiting.push(message.content);
    else if (message.role === "user" && waiting.length > 0) {
      out.push({ ...message, content: [...waiting, message.content].join("\n\n") });
      waiting = [];
    } else out.push(message);
  }
  return waiting.length === 0 ? out : [...out, { role: "user", content: waiting.join("\n\n") }];
}

/** The value with every text in it replaced, keys too: tools have the caller's words in keys. */
function mapTexts<T>(value: T, change: (text: string) => string): T {
  if (typeof value === "string") return change(value) as T;
  if (Array.isArray(value)) return value.map((item) => mapTexts(item, change)) as T;
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [change(key), mapTexts(item, change)])) as T;
}

const refused = (reason: string): LLMPoolError =>
  new LLMPoolError("invalid_request", `the model's chat template refuses these messages: ${reason}`, {
    param: "messages",
  });
