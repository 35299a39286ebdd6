import { expect } from "vitest";
import type { UsageObject } from "../../src/api/http.ts";
import { INSTANCE_HEADERS, type RequestRecord, USAGE_COMMENT } from "../../src/api/instance.ts";
import type { ChatCompletion, TokenLogprobs } from "../../src/api/openai.ts";

export interface CallOptions {
  id?: string;
  session?: string;
  timeoutMs?: number;
  maxTotalTokens?: number;
  signal?: AbortSignal;
}

export interface Chunk {
  id: string;
  object: string;
  model: string;
  choices: {
    delta?: {
      role?: string;
      content?: string;
      tool_calls?: { index: number; id: string; function: { name: string; arguments: string } }[];
    };
    text?: string;
    logprobs: { content: TokenLogprobs[] } | null;
    finish_reason: string | null;
  }[];
  usage?: UsageObject | null;
}

/** A stream, read to its end. */
export interface Streamed {
  chunks: Chunk[];
  text: string;
  finishReason: string | undefined;
  /** Of the usage chunk. */
  usage: UsageObject | undefined;
  /** Of the comment. */
  record: RequestRecord | undefined;
  error: { code: string } | undefined;
  /** Kinds of the frames in their order: chunk, usage, error, done. */
  kinds: string[];
}

/** Speaks the instance protocol as a router does. */
export class Client {
  readonly url: string;
  readonly #token: string;

  constructor(target: { url: string; token: string }) {
    this.url = target.url;
    this.#token = target.token;
  }

  fetch(path: string, init: RequestInit = {}, options: CallOptions = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    if (!headers.has("authorization")) headers.set("authorization", `Bearer ${this.#token}`);
    if (options.id) headers.set(INSTANCE_HEADERS.requestId, options.id);
    if (options.session) headers.set(INSTANCE_HEADERS.session, options.session);
    if (options.timeoutMs !== undefined) headers.set(INSTANCE_HEADERS.timeoutMs, String(options.timeoutMs));
    if (options.maxTotalTokens !== undefined)
      headers.set(INSTANCE_HEADERS.maxTotalTokens, String(options.maxTotalTokens));
    return fetch(this.url + path, { ...init, headers, ...(options.signal && { signal: options.signal }) });
  }

  post(path: string, body: unknown, options: CallOptions = {}): Promise<Response> {
    return this.fetch(path, { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body) }, options);
  }

  /** A whole chat answer that must succeed. */
  async chat(body: object, options: CallOptions = {}): Promise<ChatCompletion> {
    const response = await this.post("/v1/chat/completions", body, options);
    const json = await response.json();
    expect(response.status, JSON.stringify(json)).toBe(200);
    return json as ChatCompletion;
  }

  /** A stream that must begin. */
  async stream(path: string, body: object, options: CallOptions = {}): Promise<Streamed> {
    const response = await this.post(path, { ...body, stream: true, stream_options: { include_usage: true } }, options);
    if (response.status !== 200) throw new Error(`${response.status} ${await response.text()}`);
    expect(response.headers.get("content-type")).toContain("text/event-stream");
    return readStream(await response.text());
  }

  /** What a request used, once it is done. */
  async record(id: string): Promise<RequestRecord> {
    const response = await this.fetch(`/internal/requests/${id}?wait_s=10`);
    expect(response.status).toBe(200);
    return (await response.json()) as RequestRecord;
  }
}

export function readStream(text: string): Streamed {
  const out: Streamed = {
    chunks: [],
    text: "",
    finishReason: undefined,
    usage: undefined,
    record: undefined,
    error: undefined,
    kinds: [],
  };
  const frames = text.split("\n\n");
  expect(frames.pop()).toBe("");
  for (const frame of frames) {
    if (frame.startsWith(USAGE_COMMENT)) {
      out.record = JSON.parse(frame.slice(USAGE_COMMENT.length)) as RequestRecord;
      out.kinds.push("usage");
    } else if (frame === "data: [DONE]") {
      out.kinds.push("done");
    } else if (frame.startsWith('data: {"error"')) {
      out.error = (JSON.parse(frame.slice(6)) as { error: { code: string } }).error;
      out.kinds.push("error");
    } else {
      expect(frame.startsWith("data: ")).toBe(true);
      const chunk = JSON.parse(frame.slice(6)) as Chunk;
      out.chunks.push(chunk);
      out.kinds.push("chunk");
      const [choice] = chunk.choices;
      out.text += choice?.delta?.content ?? choice?.text ?? "";
      out.finishReason ??= choice?.finish_reason ?? undefined;
      out.usage ??= chunk.usage ?? undefined;
    }
  }
  return out;
}

/** The error of an answer that must be one. */
export async function errorOf(
  response: Response,
): Promise<{ status: number; code: string; param: string | null; message: string; usage?: UsageObject }> {
  const body = (await response.json()) as {
    error: { code: string; param: string | null; message: string };
    usage?: UsageObject;
  };
  return { status: response.status, ...body.error, ...(body.usage && { usage: body.usage }) };
}

export async function metricsOf(metricsUrl: string): Promise<Map<string, number>> {
  const text = await (await fetch(metricsUrl)).text();
  const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(
    lines.map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.slice(line.lastIndexOf(" ") + 1))]),
  );
}
