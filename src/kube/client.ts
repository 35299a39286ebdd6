import type { Clock } from "../lib/clock.ts";
import { sleep } from "../lib/sleep.ts";
import type { Connection } from "./connection.ts";
import { withDeadline } from "./deadline.ts";
import { ApiError, ConnectionError, isNotFound, type Status } from "./errors.ts";
import type { KubeMetrics } from "./metrics.ts";
import type { KubeObject, List } from "./object.ts";
import { type Place, pathOf, RESOURCES, type Resource } from "./resource.ts";

/** How long a call may take, in milliseconds; the server itself gives up after 60 s. */
const CALL_MS = 30_000;
/** A server that is busy asks for patience; it is granted in place, this often. */
const PATIENCE_TRIES = 10;
/** Whoever asks for more than this, in milliseconds, gets it from the caller's queue. */
const PATIENCE_MS = 10_000;

export type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

export interface CallOptions {
  query?: Record<string, string | number | boolean | undefined>;
  body?: unknown;
  /** Of the body; `application/json` by default. */
  contentType?: string;
  accept?: string;
  signal?: AbortSignal | undefined;
}

export interface Selection {
  namespace?: string | undefined;
  labelSelector?: string | undefined;
  fieldSelector?: string | undefined;
}

export interface ApplyOptions {
  /** Whose fields these are. */
  fieldManager: string;
  /** Takes fields that others own; without it such a field is a Conflict that names the other manager. */
  force?: boolean;
  /** The server checks and answers, and stores nothing. */
  dryRun?: boolean;
  subresource?: "status" | "scale";
  signal?: AbortSignal | undefined;
}

export interface WriteOptions {
  subresource?: string;
  dryRun?: boolean;
  signal?: AbortSignal | undefined;
}

export interface DeleteOptions {
  /** Refused with a Conflict unless the object of that name is still this one. */
  uid?: string | undefined;
  resourceVersion?: string | undefined;
  propagation?: "Foreground" | "Background" | "Orphan";
  gracePeriodSeconds?: number;
  signal?: AbortSignal | undefined;
}

/** `meta.k8s.io/v1` Table: what kubectl prints. */
export interface Table {
  columnDefinitions: { name: string; type: string; priority: number }[];
  rows: { cells: unknown[]; object: KubeObject }[];
}

export interface ClientOptions {
  connection: Connection;
  clock: Clock;
  metrics?: KubeMetrics;
  /** Kinds beyond the built-in ones, so that objects of them find their path. */
  resources?: readonly Resource[];
  /** Asked before each write; rejects to forbid it. */
  guard?: (signal: AbortSignal | undefined) => Promise<void>;
}

/** The API in plain JSON: nothing is dropped, nothing converted. Throws ApiError, ConnectionError or the signal's reason. */
export class Client {
  readonly #options: ClientOptions;

  constructor(options: ClientOptions) {
    this.#options = options;
  }

  /** The same client, which asks before each write: that of a leader, who may have lost the lease meanwhile. */
  guarded(guard: (signal: AbortSignal | undefined) => Promise<void>): Client {
    return new Client({ ...this.#options, guard });
  }

  /**
   * One call, whose answer is JSON. A server that says how long to wait (429, or a failure with Retry-After) is obeyed here, as client-go
   * does; everything else is the caller's to repeat.
   */
  async request<T>(method: Method, path: string, options: CallOptions = {}): Promise<T> {
    for (let tries = 1; ; tries++) {
      // Before each try: the wait may have cost the right to write.
      if (method !== "GET" && options.query?.dryRun === undefined) await this.#options.guard?.(options.signal);
      try {
        return await this.#once<T>(method, path, options);
      } catch (error) {
        const wait = error instanceof ApiError ? error.retryAfterMs : undefined;
        if (wait === undefined || wait > PATIENCE_MS || tries >= PATIENCE_TRIES) throw error;
        await sleep(this.#options.clock, wait, options.signal ?? new AbortController().signal);
      }
    }
  }

  async #once<T>(method: Method, path: string, options: CallOptions): Promise<T> {
    const what = `${method} ${path}`;
    await this.#options.connection.prepare(options.signal);
    const late = () => new ConnectionError(what, new Error(`no whole answer within ${CALL_MS / 1000} s`));
    return withDeadline(this.#options.clock, CALL_MS, late, options.signal, async (signal) => {
      const answer = await this.#send(method, path, options, signal);
      let text: string;
      try {
        text = await answer.body.text();
      } catch (error) {
        throw signal.aborted ? signal.reason : new ConnectionError(what, error);
      }
      if (answer.statusCode >= 300) throw toError(what, answer.statusCode, text, answer.headers["retry-after"]);
      const body = parse(text);
      if (body === undefined)
        throw new ConnectionError(what, new Error(`the answer is no JSON: ${JSON.stringify(text.slice(0, 80))}`));
      return body as T;
    });
  }

  async #send(method: Method, path: string, options: CallOptions, signal: AbortSignal) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(options.query ?? {}))
      if (value !== undefined) query.set(name, String(value));
    const headers: Record<string, string> = { accept: options.accept ?? "application/json" };
    if (options.body !== undefined) headers["content-type"] = options.contentType ?? "application/json";
    try {
      const answer = await this.#options.connection.send(
        {
          method,
          path: query.size > 0 ? `${path}?${query}` : path,
          headers,
          ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
        },
        signal,
      );
      this.#options.metrics?.request(method, String(answer.statusCode));
      return answer;
    } catch (error) {
      if (error instanceof ConnectionError) this.#options.metrics?.request(method, "<error>");
      throw error;
    }
  }

  /**
   * A GET whose answer goes on for as long as it likes, in chunks: a watch, a log. Rejects when no head comes within 30 s. Abort the signal, or
   * leave the loop, to end it.
   */
  async stream(
    path: string,
    options: Pick<CallOptions, "query"> & { signal: AbortSignal },
  ): Promise<AsyncIterable<Buffer>> {
    const what = `GET ${path}`;
    await this.#options.connection.prepare(options.signal);
    const late = () => new ConnectionError(what, new Error(`no answer within ${CALL_MS / 1000} s`));
    const cut = new AbortController();
    const { signal } = options;
    const forward = () => cut.abort(signal.reason);
    signal.addEventListener("abort", forward, { once: true });
    const cancel = this.#options.clock.after(CALL_MS, () => cut.abort(late()));
    try {
      signal.throwIfAborted();
      const answer = await this.#send("GET", path, options, cut.signal);
      if (answer.statusCode >= 300)
        throw toError(what, answer.statusCode, await answer.body.text(), answer.headers["retry-after"]);
      answer.body.once("close", () => signal.removeEventListener("abort", forward));
      return chunksOf(what, answer.body, cut.signal);
    } catch (error) {
      signal.removeEventListener("abort", forward);
      throw error;
    } finally {
      cancel();
    }
  }

  get<T extends KubeObject>(resource: Resource, place: Place, signal?: AbortSignal): Promise<T> {
    return this.request("GET", pathOf(resource, place), { signal });
  }

  /** Undefined when there is no such object. */
  async find<T extends KubeObject>(resource: Resource, place: Place, signal?: AbortSignal): Promise<T | undefined> {
    try {
      return await this.get<T>(resource, place, signal);
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
  }

  /** One page, or everything without `limit`. The items of built-in kinds come without `apiVersion` and `kind`; here they have them. */
  async list<T extends KubeObject>(
    resource: Resource,
    { namespace, ...query }: Selection & { limit?: number | undefined; continue?: string | undefined } = {},
    signal?: AbortSignal,
  ): Promise<List<T>> {
    const list = await this.request<List<T>>("GET", pathOf(resource, { namespace }), { query, signal });
    const { apiVersion, kind } = resource;
    return { metadata: list.metadata ?? {}, items: (list.items ?? []).map((item) => ({ ...item, apiVersion, kind })) };
  }

  /** The collection, or with `name` one object of it, as kubectl would print it. */
  table(resource: Resource, place: Selection & { name?: string } = {}, signal?: AbortSignal): Promise<Table> {
    const { namespace, name, ...query } = place;
    return this.request("GET", pathOf(resource, { namespace, name }), {
      query: { ...query, includeObject: "Metadata" },
      accept: "application/json;as=Table;v=v1;g=meta.k8s.io",
      signal,
    });
  }

  /** Conflict (reason `AlreadyExists`) when the name is taken. */
  create<T extends KubeObject>(object: T, { dryRun, signal }: WriteOptions = {}): Promise<T> {
    return this.request("POST", this.#pathOf(object, { name: undefined }), {
      query: { dryRun: dryRun ? "All" : undefined },
      body: object,
      signal,
    });
  }

  /** Replaces the whole object; Conflict unless its `resourceVersion` is the stored one. Only for objects that nobody else writes. */
  update<T extends KubeObject>(object: T, { subresource, dryRun, signal }: WriteOptions = {}): Promise<T> {
    return this.request("PUT", this.#pathOf(object, { subresource }), {
      query: { dryRun: dryRun ? "All" : undefined },
      body: object,
      signal,
    });
  }

  /** RFC 7396 merge patch; null removes a field. */
  merge<T extends KubeObject>(resource: Resource, place: Place, patch: object, signal?: AbortSignal): Promise<T> {
    return this.request("PATCH", pathOf(resource, place), {
      body: patch,
      contentType: "application/merge-patch+json",
      signal,
    });
  }

  /**
   * Server-side apply: the object holds every field this manager wants and no other; what it no longer holds goes away. With a `resourceVersion`
   * it is refused (Conflict) unless that is the stored one. Resolves with the object as stored.
   */
  apply<T extends KubeObject>(
    object: T,
    { fieldManager, force, dryRun, subresource, signal }: ApplyOptions,
  ): Promise<T> {
    return this.request("PATCH", this.#pathOf(object, { subresource }), {
      query: { fieldManager, force, dryRun: dryRun ? "All" : undefined },
      body: object,
      contentType: "application/apply-patch+yaml",
      signal,
    });
  }

  /** False when there was none of that name. Resolves once deletion is accepted: finalizers may still hold the object. */
  async delete(resource: Resource, place: Place, options: DeleteOptions = {}): Promise<boolean> {
    const { uid, resourceVersion, propagation, gracePeriodSeconds, signal } = options;
    const body = {
      apiVersion: "v1",
      kind: "DeleteOptions",
      gracePeriodSeconds,
      propagationPolicy: propagation,
      preconditions: { uid, resourceVersion },
    };
    try {
      await this.request("DELETE", pathOf(resource, place), { body, signal });
      return true;
    } catch (error) {
      if (isNotFound(error)) return false;
      throw error;
    }
  }

  #pathOf(object: KubeObject, place: Pick<Place, "subresource"> & { name?: undefined }): string {
    const { apiVersion, kind, metadata } = object;
    const known: readonly Resource[] = [...Object.values(RESOURCES), ...(this.#options.resources ?? [])];
    const resource = known.find((r) => r.kind === kind && r.apiVersion === apiVersion);
    if (!resource) throw new TypeError(`unknown kind ${apiVersion} ${kind}: give it to the client in \`resources\``);
    return pathOf(resource, { namespace: metadata.namespace, name: metadata.name, ...place });
  }
}

async function* chunksOf(what: string, body: AsyncIterable<Buffer>, signal: AbortSignal): AsyncGenerator<Buffer> {
  try {
    yield* body;
  } catch (error) {
    throw signal.aborted ? signal.reason : new ConnectionError(what, error);
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function toError(what: string, status: number, text: string, retryAfter: string | string[] | undefined): ApiError {
  const body = parse(text);
  // A proxy in between answers with a page of its own: its first words are all there is to say.
  const known = typeof body === "object" && body !== null ? (body as Status) : { message: text.slice(0, 200) };
  return new ApiError(what, status, known, Array.isArray(retryAfter) ? retryAfter[0] : retryAfter);
}
