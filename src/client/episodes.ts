import type {
  AuditObject,
  EpisodeCreate,
  EpisodeEventObject,
  EpisodeObject,
  List,
  ProgressEvent,
  ProgressReport,
} from "../api/http.ts";
import { LLMPoolClientError } from "./errors.ts";
import type { Knowledge } from "./knowledge.ts";
import { readSse } from "./sse.ts";
import { bodyOf } from "./stream.ts";
import type { Transport } from "./transport.ts";

interface Options {
  signal?: AbortSignal | undefined;
}

/** Reconnects in a row that bring no event before `events` gives up. */
const MAX_RECONNECTS = 8;

/** `client.episodes`: tasks with a deadline, a budget and progress. Objects are as the HTTP API has them. */
export class Episodes {
  readonly #http: Transport;
  readonly #knowledge: Knowledge;

  constructor(http: Transport, knowledge: Knowledge) {
    this.#http = http;
    this.#knowledge = knowledge;
  }

  /** Values may only lower the pool's. */
  async start(episode: EpisodeCreate = {}, options: Options = {}): Promise<EpisodeObject> {
    this.#knowledge.forget(episode.id);
    return this.#seen("/v1/episodes", { method: "POST", body: episode, ...options });
  }

  async get(id: string, options: Options = {}): Promise<EpisodeObject> {
    return this.#seen(path(id), options);
  }

  async list(options: Options = {}): Promise<EpisodeObject[]> {
    const { body } = await this.#http.json<List<EpisodeObject>>("/v1/episodes", options);
    for (const episode of body.data) this.#knowledge.saw(episode);
    return body.data;
  }

  /** A sign of useful work, which extends a deadline that is near. `llm_response` is reported by the router itself. */
  async progress(
    id: string,
    event: ProgressEvent | "heartbeat",
    options: Options & { detail?: string } = {},
  ): Promise<EpisodeObject> {
    const body: ProgressReport = { event, ...(options.detail !== undefined && { detail: options.detail }) };
    return this.#of(id, () => this.#seen(`${path(id)}/progress`, { method: "POST", body, signal: options.signal }));
  }

  /** Ends it; what it still runs is aborted. */
  async finish(id: string, options: Options = {}): Promise<EpisodeObject> {
    return this.#of(id, () => this.#seen(`${path(id)}/finish`, { method: "POST", ...options }));
  }

  async cancel(id: string, options: Options = {}): Promise<EpisodeObject> {
    return this.#of(id, () => this.#seen(path(id), { method: "DELETE", ...options }));
  }

  /**
   * Everything that happens to the episode, from its start (or after `lastEventId`), until it has ended. A lost connection is taken up
   * again where it broke; no event is missed or comes twice, heartbeats aside. Behind the last event of one that has ended there are none.
   */
  async *events(id: string, options: Options & { lastEventId?: number } = {}): AsyncGenerator<EpisodeEventObject> {
    let last = options.lastEventId;
    // Before the connection was made: what that one does not tell has not happened.
    let hasEnded = false;
    for (let failures = 0; ; failures++) {
      try {
        const headers: Record<string, string> = last === undefined ? {} : { "last-event-id": String(last) };
        const response = await this.#http.open(`${path(id)}/events`, { headers, signal: options.signal });
        let isEmpty = true;
        for await (const item of readSse(bodyOf(response))) {
          if (item.kind === "comment") continue;
          failures = 0;
          isEmpty = false;
          // The id of an event that has none of its own is the one before: not a new place in the order.
          if (item.event !== "heartbeat" && item.id !== undefined) last = Number(item.id);
          const event = JSON.parse(item.data) as EpisodeEventObject;
          if (item.event === "ended") this.#knowledge.ended(id, String(event.reason ?? "ended"));
          yield event;
          if (item.event === "ended") return;
        }
        if (isEmpty) {
          if (hasEnded) return;
          hasEnded = (await this.get(id, options)).state === "ended";
          if (hasEnded) continue;
        }
      } catch (error) {
        options.signal?.throwIfAborted();
        const fatal = error instanceof LLMPoolClientError && error.code !== "connection_error" && !error.retryable;
        if (fatal || failures >= MAX_RECONNECTS) throw error;
      }
      if (failures >= MAX_RECONNECTS) {
        throw new LLMPoolClientError("connection_error", `the events of episode ${id} end again and again`);
      }
      await this.#http.sleep(this.#http.backoffMs(failures), options.signal);
    }
  }

  /** The journal of the episode, as far as it has come: what was admitted, settled, denied, moved and extended, and how it ended. */
  async *audit(id: string, options: Options & { after?: number } = {}): AsyncGenerator<AuditObject> {
    for (let { after = 0 } = options; ; ) {
      const { body } = await this.#http.json<List<AuditObject>>(`${path(id)}/audit?after=${after}`, options);
      yield* body.data;
      const last = body.data.at(-1);
      if (!last) return;
      after = last.seq;
    }
  }

  async #seen(...call: Parameters<Transport["json"]>): Promise<EpisodeObject> {
    const { body } = await this.#http.json<EpisodeObject>(...call);
    this.#knowledge.saw(body);
    return body;
  }

  async #of<T>(id: string, call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (error) {
      this.#knowledge.failed(id, error);
      throw error;
    }
  }
}

function path(id: string): string {
  return `/v1/episodes/${encodeURIComponent(id)}`;
}
