import { z } from "zod";
import type { ChatMessage, Prompt, ResponseFormat, Sampling, ToolDefinition } from "./backend.ts";
import type { UsageObject } from "./http.ts";
import { explainIssue } from "./shape.ts";

/**
 * Bodies of the OpenAI routes, as router and instances accept them: one schema, so that nothing passes the first and fails at the second.
 * What no runtime can do is refused by its name; fields that are not listed are ignored, as other servers of this API do.
 */

const MAX_MESSAGES = 4096;
const MAX_TOOLS = 128;
const MAX_STOPS = 16;
/** Free-form JSON (schemas) is walked by grammar and template code: it is bounded before that. */
const MAX_JSON_DEPTH = 32;
const MAX_JSON_NODES = 10_000;

const refused = (why: string) => z.never(why).nullish();
const off = (why: string) => z.literal(false, why).nullish();

/** A string, or an array of text parts, which become one string with a line feed between them. */
const Text = z.unknown().transform((value, context): string => {
  if (typeof value === "string") return value;
  const refuse = (message: string, ...path: PropertyKey[]) => {
    context.issues.push({ code: "custom", message, path, input: value });
    return "";
  };
  if (!Array.isArray(value)) return refuse("write a text or a list of text parts");
  const texts: string[] = [];
  for (const [i, part] of value.entries()) {
    const { type, text } = (part ?? {}) as { type?: unknown; text?: unknown };
    if (type !== "text") return refuse("only parts of type text are supported: write those", i, "type");
    if (typeof text !== "string") return refuse("write a text", i, "text");
    texts.push(text);
  }
  return texts.join("\n");
});

/** JSON of any shape, within bounds. Also refuses what JSON text cannot hold. */
const FreeObject = z.unknown().transform((value, context): Record<string, unknown> => {
  const problem = isObject(value) ? tooComplex(value) : "write an object";
  if (!problem) return value as Record<string, unknown>;
  context.issues.push({ code: "custom", message: problem, path: [], input: value });
  return {};
});

const FunctionName = z.string().regex(/^[A-Za-z0-9_.-]{1,64}$/, "write 1 to 64 letters, digits, _ . or -");

const ToolCallSchema = z.object({
  id: z.string().min(1).max(256),
  type: z.literal("function").default("function"),
  function: z.object({ name: FunctionName, arguments: z.string() }),
});

const name = z.string().max(256).optional();

const Message = z.discriminatedUnion("role", [
  z.object({ role: z.enum(["system", "developer", "user"]), content: Text, name }),
  z.object({
    role: z.literal("assistant"),
    content: Text.nullish(),
    name,
    tool_calls: z.array(ToolCallSchema).max(MAX_TOOLS).nullish(),
  }),
  z.object({ role: z.literal("tool"), content: Text, tool_call_id: z.string().min(1).max(256) }),
]);

const Tool = z.object({
  type: z.literal("function"),
  function: z.object({
    name: FunctionName,
    description: z.string().max(16_384).nullish(),
    parameters: FreeObject.nullish(),
    strict: z.boolean().nullish(),
  }),
});

const ToolChoice = z.union(
  [
    z.enum(["none", "auto", "required"]),
    z.object({ type: z.literal("function"), function: z.object({ name: z.string() }) }),
  ],
  { error: 'write "none", "auto", "required" or {"type": "function", "function": {"name": …}}' },
);

const ResponseFormatSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("text") }),
  z.object({ type: z.literal("json_object") }),
  z.object({ type: z.literal("json_schema"), json_schema: z.object({ schema: FreeObject }) }),
]);

export const RequestMetadata = z
  .record(z.string(), z.string().max(512))
  .refine((m) => Object.keys(m).length <= 16, "write at most 16 entries");

const tokens = z.int().min(1).max(2_147_483_647);

const common = {
  model: z.string().max(512).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.object({ include_usage: z.boolean().nullish() }).nullish(),
  max_tokens: tokens.nullish(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  /** 0 and -1: off, as other servers have it. */
  top_k: z.int().min(-1).max(1_000_000).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  seed: z.int().nullish(),
  stop: z
    .union([z.string().min(1).max(1024), z.array(z.string().min(1).max(1024)).max(MAX_STOPS)], {
      error: `write a text or at most ${MAX_STOPS} texts, each of 1 to 1024 characters`,
    })
    .nullish(),
  user: z.string().max(512).nullish(),
  prompt_cache_key: z.string().max(512).nullish(),
  metadata: RequestMetadata.nullish(),
  n: z.literal(1, "only 1 is supported: send one request for each answer").nullish(),
  logit_bias: z
    .record(z.string(), z.number())
    .refine((b) => Object.keys(b).length === 0, "not supported: remove it")
    .nullish(),
};

const ChatSchema = z
  .object({
    ...common,
    messages: z.array(Message).min(1).max(MAX_MESSAGES),
    max_completion_tokens: tokens.nullish(),
    tools: z.array(Tool).max(MAX_TOOLS).nullish(),
    tool_choice: ToolChoice.nullish(),
    response_format: ResponseFormatSchema.nullish(),
    /** Only instances that say so in `/readyz` take it. */
    logprobs: z.boolean().nullish(),
    top_logprobs: z.int().min(0).max(20).nullish(),
    functions: refused("no longer supported: write tools"),
    function_call: refused("no longer supported: write tool_choice"),
    audio: refused("not supported: remove it"),
    modalities: z.array(z.literal("text")).nullish(),
  })
  .check((context) => {
    const { tools, tool_choice: choice, logprobs, top_logprobs: top } = context.value;
    if (top && !logprobs) {
      const message = "write logprobs: true beside it, or remove it";
      context.issues.push({ code: "custom", message, path: ["top_logprobs"], input: top });
    }
    if (!choice || choice === "none" || choice === "auto") return;
    const names = (tools ?? []).map((tool) => tool.function.name);
    if (choice === "required" ? names.length > 0 : names.includes(choice.function.name)) return;
    const message =
      names.length === 0
        ? "write tools beside it, or remove it"
        : `its function is not in tools: write one of ${names.join(", ")}`;
    context.issues.push({ code: "custom", message, path: ["tool_choice"], input: choice });
  });
/** `POST /v1/chat/completions`. Compiled: zod's interpreter costs several times as much, and its closures outlive their request. */
export const ChatRequest = z.compile(ChatSchema, { strict: true });
export type ChatRequest = z.infer<typeof ChatRequest>;

const CompletionSchema = z.object({
  ...common,
  prompt: z.string("write one text, not an empty one: send one request for each prompt").min(1),
  logprobs: refused("only chat completions give log probabilities: remove it"),
  echo: off("not supported: remove it"),
  best_of: z.literal(1, "only 1 is supported: remove it").nullish(),
  suffix: z.literal("", "not supported: remove it").nullish(),
});
/** `POST /v1/completions`: the prompt is tokenised as it stands. */
export const CompletionRequest = z.compile(CompletionSchema, { strict: true });
export type CompletionRequest = z.infer<typeof CompletionRequest>;

/** The prompt of a checked body: what a backend counts and evaluates. */
export function promptOf(body: ChatRequest | CompletionRequest): Prompt {
  if (!("messages" in body)) return { kind: "raw", text: body.prompt };
  const prompt: Prompt = { kind: "chat", messages: body.messages.map(toMessage) };
  if (body.tools && body.tools.length > 0) {
    prompt.tools = body.tools.map(toTool);
    const choice = body.tool_choice ?? "auto";
    prompt.toolChoice = typeof choice === "string" ? choice : { name: choice.function.name };
  }
  return prompt;
}

/** Most completion tokens asked for. Undefined: whatever the context leaves. */
export function maxTokensOf(body: ChatRequest | CompletionRequest): number | undefined {
  return ("max_completion_tokens" in body ? body.max_completion_tokens : undefined) ?? body.max_tokens ?? undefined;
}

export function stopOf(body: ChatRequest | CompletionRequest): string[] {
  return typeof body.stop === "string" ? [body.stop] : (body.stop ?? []);
}

/** OpenAI's defaults where nothing is said: temperature 1, top_p 1. */
export function samplingOf(body: ChatRequest | CompletionRequest): Sampling {
  const sampling: Sampling = { temperature: body.temperature ?? 1, topP: body.top_p ?? 1 };
  if (body.top_k && body.top_k > 0) sampling.topK = body.top_k;
  if (body.min_p) sampling.minP = body.min_p;
  if (typeof body.seed === "number") sampling.seed = body.seed;
  if (body.frequency_penalty) sampling.frequencyPenalty = body.frequency_penalty;
  if (body.presence_penalty) sampling.presencePenalty = body.presence_penalty;
  return sampling;
}

export function responseFormatOf(body: ChatRequest | CompletionRequest): ResponseFormat {
  const format = "response_format" in body ? body.response_format : undefined;
  if (!format) return { type: "text" };
  return format.type === "json_schema" ? { type: "json_schema", schema: format.json_schema.schema } : format;
}

/**
 * What `schema` found wrong with a body, `value`: `param` is the first field at fault (`messages[2].content[0].type`), `message` names up to
 * three. More are not looked at: a body may hold a hundred thousand of them.
 */
export function problemsOf(error: z.ZodError, value: unknown, schema: z.ZodType): { param: string; message: string } {
  const fields = schema instanceof z.ZodObject ? Object.keys(schema.shape) : [];
  const root = { properties: Object.fromEntries(fields.map((field) => [field, {}])) };
  const problems = error.issues
    .slice(0, NAMED)
    .flatMap((issue) => explainIssue(withInput(issue, value), root))
    .slice(0, NAMED)
    .map(({ path, message }) => ({ path: printable(path), message }));
  return {
    param: problems[0]?.path ?? "",
    message: problems
      .map(({ path, message }) => (path === "" ? `the body ${message}` : `${path}: ${message}`))
      .join("; "),
  };
}

const NAMED = 3;

function withInput(issue: z.core.$ZodIssue, value: unknown): z.core.$ZodIssue {
  if (issue.code === "unrecognized_keys") return { ...issue, keys: issue.keys.slice(0, NAMED) };
  const input = issue.path.reduce((at, step) => (at as Record<PropertyKey, unknown> | undefined)?.[step], value);
  return { ...issue, input } as z.core.$ZodIssue;
}

/** Names of fields are the caller's text: they end up in logs and terminals. */
function printable(path: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is replaced
  return path.slice(0, 128).replace(/[\u0000-\u001f\u007f]/g, "?");
}

interface TokenLogprob {
  token: string;
  /** As the model gives it: before temperature, penalties and grammar. */
  logprob: number;
  /** Of the token; text alone cannot hold half a character. */
  bytes: number[];
}

export interface TokenLogprobs extends TokenLogprob {
  /** The likeliest in its place, best first. */
  top_logprobs: TokenLogprob[];
}

export interface ChatCompletion {
  id: string;
  object: "chat.completion";
  /** Unix seconds. */
  created: number;
  model: string;
  choices: [
    {
      index: 0;
      message: { role: "assistant"; content: string | null; refusal: null; tool_calls?: ChatMessage["tool_calls"] };
      logprobs: { content: TokenLogprobs[]; refusal: null } | null;
      finish_reason: string;
    },
  ];
  usage: UsageObject;
}

export interface TextCompletion {
  id: string;
  object: "text_completion";
  created: number;
  model: string;
  choices: [{ index: 0; text: string; logprobs: null; finish_reason: string }];
  usage: UsageObject;
}

export interface ModelList {
  object: "list";
  data: { id: string; object: "model"; created: number; owned_by: string }[];
}

function toMessage(message: ChatRequest["messages"][number]): ChatMessage {
  const out: ChatMessage = { role: message.role, content: message.content ?? null };
  if ("name" in message && message.name !== undefined) out.name = message.name;
  if (message.role === "assistant" && message.tool_calls && message.tool_calls.length > 0)
    out.tool_calls = message.tool_calls;
  if (message.role === "tool") out.tool_call_id = message.tool_call_id;
  return out;
}

/** Keys in a fixed order: a template that prints tools as JSON prints the same for the same tools. */
function toTool({ function: f }: z.infer<typeof Tool>): ToolDefinition {
  const out: ToolDefinition = { type: "function", function: { name: f.name } };
  if (typeof f.description === "string") out.function.description = f.description;
  if (f.parameters) out.function.parameters = f.parameters;
  if (typeof f.strict === "boolean") out.function.strict = f.strict;
  return out;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Walks without recursion: depth is the caller's. */
function tooComplex(root: object): string | undefined {
  let level: object[] = [root];
  let nodes = 0;
  for (let depth = 1; level.length > 0; depth++) {
    if (depth > MAX_JSON_DEPTH) return `nested deeper than ${MAX_JSON_DEPTH} levels: write a flatter one`;
    const next: object[] = [];
    for (const node of level) {
      for (const child of Object.values(node)) {
        nodes += 1;
        if (nodes > MAX_JSON_NODES) return `more than ${MAX_JSON_NODES} values: write a smaller one`;
        if (typeof child === "object" && child !== null) next.push(child);
      }
    }
    level = next;
  }
  return undefined;
}
