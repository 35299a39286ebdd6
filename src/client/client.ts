import type { GenerateAnswer, InstanceObject, List, ProgressEvent, SessionObject } from "../api/http.ts";
import { Episodes } from "./episodes.ts";
import {
  chatBody,
  commonHeaders,
  type GenerateOptions,
  type Generation,
  generateBody,
  generationFrom,
  type Prompt,
  routingHeaders,
} from "./generation.ts";
import { Knowledge } from "./knowledge.ts";
import { readStream, type StreamEvent } from "./stream.ts";
import { type ClientOptions, Transport } from "./transport.ts";

/**
 * A client of one LLMPool router. It holds no connection and no timer: there is nothing to close.
 *
 * ```ts
 * const client = new LLMClient({ baseUrl: "http://127.0.0.1:8080" });
 * const { text } = await client.generate("planner", "Plan the fix.", { sessionId: "fix-1", episodeId: "ep1" });
 * ```
 */
export class LLMClient {
  readonly episodes: Episodes;
  readonly #http: Transport;
  readonly #knowledge = new Knowledge();

  constructor(options: ClientOptions) {
    this.#http = new Transport(options);
    this.episodes = new Episodes(this.#http, this.#knowledge);
  }

  /**
   * One answer of a role's instance, or of the instance that an agent's id hashes to.
   * Throws LLMPoolClientError; without any I/O where this client knows already that the episode has ended or its budget is spent.
   */
  async generate(agentId: string, prompt: Prompt, options: GenerateOptions = {}): Promise<Generation> {
    this.#knowledge.check(options.episodeId);
    try {
      const { body, headers } = await this.#http.json<GenerateAnswer>("/v1/generate", {
        method: "POST",
        body: generateBody(agentId, prompt, options),
        headers: commonHeaders(options),
        signal: options.signal,
      });
      const generation = generationFrom(body, headers);
      this.#knowledge.used(options.episodeId, generation.usage.totalTokens);
      return generation;
    } catch (error) {
      this.#knowledge.failed(options.episodeId, error);
      throw error;
    }
  }

  /** The same as it comes. Leaving the loop early stops the generation. Tried again only before its first byte. */
  async *stream(agentId: string, prompt: Prompt, options: GenerateOptions = {}): AsyncGenerator<StreamEvent> {
    this.#knowledge.check(options.episodeId);
    try {
      const response = await this.#http.open("/v1/chat/completions", {
        method: "POST",
        body: chatBody(prompt, options),
        headers: routingHeaders(agentId, options),
        signal: options.signal,
      });
      for await (const event of readStream(response, options.sessionId, options.signal)) {
        if (event.type === "done") this.#knowledge.used(options.episodeId, event.generation.usage.totalTokens);
        yield event;
      }
    } catch (error) {
      this.#knowledge.failed(options.episodeId, error);
      throw error;
    }
  }

  /** Reports progress of an episode; see `episodes.progress`. */
  async progress(episodeId: string, event: ProgressEvent, detail?: string): Promise<void> {
    await this.episodes.progress(episodeId, event, detail === undefined ? {} : { detail });
  }

  /** The caller's sessions. */
  async sessions(options: { signal?: AbortSignal | undefined } = {}): Promise<SessionObject[]> {
    return (await this.#http.json<List<SessionObject>>("/v1/sessions", options)).body.data;
  }

  /** Frees the KV caches of the session. */
  async deleteSession(id: string, options: { signal?: AbortSignal | undefined } = {}): Promise<void> {
    await this.#http.json(`/v1/sessions/${encodeURIComponent(id)}`, { method: "DELETE", ...options });
  }

  async instances(options: { signal?: AbortSignal | undefined } = {}): Promise<InstanceObject[]> {
    return (await this.#http.json<List<InstanceObject>>("/v1/instances", options)).body.data;
  }
}
