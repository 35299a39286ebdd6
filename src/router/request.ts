import { isUtf8 } from "node:buffer";
import type { IncomingMessage } from "node:http";
import type { z } from "zod";
import { GenerateBody } from "../api/http.ts";
import type { Backend } from "../api/llmpool.ts";
import { ChatRequest, CompletionRequest, problemsOf, promptOf } from "../api/openai.ts";
import type { RolePlan } from "../core/plan/types.ts";
import { countStubPrompt } from "../core/stub-tokenizer.ts";
import { LLMPoolError } from "../lib/errors.ts";
import type { GenerateFields } from "./identify.ts";
import { tooCostly } from "./json-bounds.ts";

/** The three calls that reach a model. The value is the path on the instance. */
export const ROUTES = {
  "/v1/chat/completions": "/v1/chat/completions",
  "/v1/completions": "/v1/completions",
  "/v1/generate": "/v1/chat/completions",
} as const;
export type Route = keyof typeof ROUTES;

/** A checked body: what routing and budgets need of it. The bytes go on as they came unless something has to change. */
export interface InferenceRequest {
  route: Route;
  /** What goes to the instance. */
  body: Buffer;
  checked: ChatRequest | CompletionRequest;
  generate?: GenerateFields;
  stream: boolean;
}

/** Tokens a chat template can add around one message or one tool, at most; far above every template seen. */
const TEMPLATE_TOKENS = 64;

/** Reads the whole body. `payload_too_large` before it is all in memory; rejects when the caller leaves in the middle. */
export function readBody(req: IncomingMessage, maxBytes: number): Promise<Buffer> {
  const announced = Number(req.headers["content-length"] ?? 0);
  const tooLarge = () =>
    new LLMPoolError("payload_too_large", `the body is larger than ${maxBytes} bytes (router.maxBodyMiB of the pool)`);
  if (announced > maxBytes) return Promise.reject(tooLarge());
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    req.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size > maxBytes) {
        req.pause();
        reject(tooLarge());
      } else chunks.push(chunk);
    });
    req.on("end", () => resolve(chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks)));
    req.on("error", reject);
    req.on("close", () => {
      // Every call comes here; an Error and its stack are dear.
      if (!req.complete) reject(new Error("the caller left before the body was complete"));
    });
  });
}

/** Checks a body with the schema that the instances use too. */
export function parseRequest(route: Route, body: Buffer): InferenceRequest {
  const fields = parseObject(body);
  if (route === "/v1/generate") return parseGenerate(fields);
  const checked = route === "/v1/chat/completions" ? check(ChatRequest, fields) : check(CompletionRequest, fields);
  return { route, body, checked, stream: checked.stream ?? false };
}

/** Puts a role's system prompt in front when the request has no system or developer message of its own. */
export function withSystemPrompt(request: InferenceRequest, role: RolePlan | undefined): InferenceRequest {
  const { checked } = request;
  if (!role?.systemPrompt || !("messages" in checked)) return request;
  if (checked.messages.some((m) => m.role === "system" || m.role === "developer")) return request;
  const messages = [{ role: "system" as const, content: role.systemPrompt }, ...checked.messages];
  const changed = { ...checked, messages };
  return { ...request, checked: changed, body: Buffer.from(JSON.stringify(changed)) };
}

/**
 * Prompt tokens: exact where the router has the tokenizer (the stub's), else a number that no prompt of this body reaches. No tokenizer
 * makes more tokens than UTF-8 bytes, JSON never shortens text, and a template adds a bounded number per message; tools may be written
 * out again with indentation.
 */
export function countPrompt(request: InferenceRequest, backend: Backend): number {
  const { checked, body } = request;
  if (backend === "stub") return countStubPrompt(promptOf(checked));
  const messages = "messages" in checked ? checked.messages.length : 1;
  const tools = ("tools" in checked ? checked.tools : undefined) ?? [];
  const again = tools.length > 0 ? 2 * Buffer.byteLength(JSON.stringify(tools)) : 0;
  return body.length + again + (messages + tools.length + 1) * TEMPLATE_TOKENS;
}

/** Parses the JSON object of a body, or says in words what is wrong with it. */
export function parseObject(body: Buffer): Record<string, unknown> {
  const problem = tooCostly(body);
  if (problem) throw new LLMPoolError("invalid_request", `the body ${problem}`);
  if (!isUtf8(body)) throw new LLMPoolError("invalid_request", "the body is not valid UTF-8");
  let value: unknown;
  try {
    value = JSON.parse(body.toString());
  } catch {
    throw new LLMPoolError("invalid_request", "the body is not valid JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new LLMPoolError("invalid_request", "the body must be a JSON object");
  }
  return value as Record<string, unknown>;
}

function parseGenerate(fields: Record<string, unknown>): InferenceRequest {
  const { prompt, messages, max_new_tokens, stop, temperature, seed, stream, metadata, ...generate } = check(
    GenerateBody,
    fields,
  );
  if ((prompt === undefined) === (messages === undefined)) {
    throw new LLMPoolError("invalid_request", "give either prompt or messages", { param: "prompt" });
  }
  const chat = {
    messages: messages ?? [{ role: "user", content: prompt }],
    max_completion_tokens: max_new_tokens,
    stop,
    temperature,
    seed,
    stream,
    metadata,
    // The last piece of a stream tells the usage, whoever asks.
    ...(stream && { stream_options: { include_usage: true } }),
  };
  const checked = check(ChatRequest, chat);
  return { route: "/v1/generate", body: Buffer.from(JSON.stringify(chat)), checked, generate, stream: stream ?? false };
}

/** The value as the schema has it, or `invalid_request` that names the first field at fault. */
export function check<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const { param, message } = problemsOf(parsed.error, value, schema);
  throw new LLMPoolError("invalid_request", message, param === "" ? {} : { param });
}
