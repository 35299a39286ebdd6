import { randomUUID } from "node:crypto";
import { expect } from "vitest";
import { type CallOptions, type Client, metricsOf } from "./client.ts";

/** A running instance that listens; `stop` leaves nothing behind. */
export interface Target {
  url: string;
  token: string;
  /** Full URL of the metrics page. */
  metricsUrl: string;
  stop(): Promise<void>;
}

export interface ConformanceOptions {
  /** `core`: any server that speaks the protocol. `session`: also the KV caches of sessions, which ours keep. */
  profile: "core" | "session";
  /** Context of the started instance, in tokens; at least 256. */
  contextTokens: number;
  /** Requests it runs at once, and caches it keeps warm; at least 2. */
  sessions: number;
  /** A raw prompt whose answer goes on for at least 200 tokens, and takes at least a second for them. */
  longPrompt: string;
  /** It gives log probabilities; else it refuses them. */
  logprobs?: true;
  /** What a user says to get the text back that the model has in its context. */
  recall: string;
}

export const hello = { messages: [{ role: "user", content: "hello" }], max_tokens: 8, temperature: 0 };
export const newId = () => `t-${randomUUID()}`;

export async function runningOf(target: Target): Promise<number> {
  return (await metricsOf(target.metricsUrl)).get("llmpool_instance_requests_running") ?? 0;
}

/** Reads a stream until `count` content frames have come, hangs up, and says how many content frames it has seen. */
export async function readSome(client: Client, body: object, options: CallOptions, count: number): Promise<number> {
  const hangUp = new AbortController();
  const response = await client.post(
    "/v1/completions",
    { ...body, stream: true },
    { ...options, signal: hangUp.signal },
  );
  expect(response.status).toBe(200);
  let text = "";
  let seen = 0;
  const decoder = new TextDecoder();
  for await (const part of response.body ?? []) {
    text += decoder.decode(part, { stream: true });
    seen = text.split("\n\n").filter((frame) => frame.startsWith("data: ")).length;
    if (seen >= count) break;
  }
  hangUp.abort();
  return seen;
}
