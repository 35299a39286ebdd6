import { errorFrom, LLMPoolClientError } from "./errors.ts";

export interface ClientOptions {
  /** `http://127.0.0.1:8080`; a trailing `/v1` is the same. */
  baseUrl: string;
  /** Sent as `Authorization: Bearer …`; needed when the pool's `router.auth.mode` is ApiKey. */
  apiKey?: string | undefined;
  /** Default: the global fetch. Node's own gives up on an answer that begins after 300 s. */
  fetch?: typeof fetch | undefined;
  /** Tries after the first, for answers that say that waiting helps. Default 2. */
  maxRetries?: number | undefined;
  /** Waits between tries; for tests. Must reject when `signal` aborts. */
  sleep?: ((ms: number, signal: AbortSignal | undefined) => Promise<void>) | undefined;
  /** 0 to 1, spreads the waits; for tests. */
  random?: (() => number) | undefined;
}

export interface Call {
  method?: "GET" | "POST" | "DELETE";
  body?: object;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
}

const BASE_MS = 500;
const MAX_MS = 10_000;

/** HTTP to the router: keys, retries, errors. */
export class Transport {
  readonly #base: string;
  readonly #headers: Record<string, string>;
  readonly #fetch: typeof fetch;
  readonly #maxRetries: number;
  readonly #random: () => number;
  readonly sleep: (ms: number, signal: AbortSignal | undefined) => Promise<void>;

  constructor(options: ClientOptions) {
    const url = URL.parse(options.baseUrl);
    if (!url || !/^https?:$/.test(url.protocol)) {
      throw new TypeError(`baseUrl must be an http(s) URL, as http://127.0.0.1:8080, not "${options.baseUrl}"`);
    }
    this.#base = options.baseUrl.replace(/\/+$/, "").replace(/\/v1$/, "");
    this.#headers = options.apiKey ? { authorization: `Bearer ${options.apiKey}` } : {};
    this.#fetch = options.fetch ?? fetch;
    this.#maxRetries = options.maxRetries ?? 2;
    this.#random = options.random ?? Math.random;
    this.sleep = options.sleep ?? sleep;
  }

  async json<T>(path: string, call: Call = {}): Promise<{ body: T; headers: Headers }> {
    const response = await this.open(path, call);
    try {
      return { body: (await response.json()) as T, headers: response.headers };
    } catch (error) {
      throw lost(error, call.signal);
    }
  }

  /** A successful answer, its body not yet read. Throws LLMPoolClientError, or the reason of `call.signal`. */
  async open(path: string, call: Call): Promise<Response> {
    for (let tries = 0; ; tries++) {
      try {
        return await this.#send(path, call);
      } catch (error) {
        if (!(error instanceof LLMPoolClientError) || !error.retryable || tries >= this.#maxRetries) throw error;
        await this.sleep(this.backoffMs(tries, error.retryAfterSeconds), call.signal);
      }
    }
  }

  /** How long to wait after try number `tries` (from 0), in milliseconds. */
  backoffMs(tries: number, retryAfterSeconds = 0): number {
    const jittered = Math.min(MAX_MS, BASE_MS * 2 ** tries) * (0.5 + this.#random() / 2);
    return Math.max(jittered, retryAfterSeconds * 1000);
  }

  async #send(path: string, { method = "GET", body, headers, signal }: Call): Promise<Response> {
    let response: Response;
    try {
      response = await this.#fetch(this.#base + path, {
        method,
        headers: { ...(body && { "content-type": "application/json" }), ...headers, ...this.#headers },
        ...(body && { body: JSON.stringify(body) }),
        ...(signal && { signal }),
      });
    } catch (error) {
      throw lost(error, signal, this.#base);
    }
    if (response.ok) return response;
    const said: unknown = await response.json().catch(() => null);
    signal?.throwIfAborted();
    const retryAfter = Number(response.headers.get("retry-after"));
    throw errorFrom(said, {
      status: response.status,
      retryAfterSeconds: retryAfter > 0 ? retryAfter : undefined,
      requestId: response.headers.get("x-request-id") ?? undefined,
      retryable: response.headers.get("x-should-retry") === "false" ? false : undefined,
    });
  }
}

/** Nobody is there: a connection never began. */
const NOBODY = ["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH"];

/** What a broken connection throws: the signal's reason when the caller ended it. `asked` is the URL of a connection that may never have begun. */
export function lost(error: unknown, signal: AbortSignal | undefined, asked?: string): unknown {
  if (signal?.aborted) return signal.reason;
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : undefined;
  const why = cause?.message ?? String(error);
  const nobody = asked !== undefined && NOBODY.includes((cause as { code?: string } | undefined)?.code ?? "");
  const message = nobody
    ? `the router cannot be reached at ${asked} (${why}): check that it runs, and that the URL is right`
    : `the router cannot be reached, or went away: ${why}`;
  return new LLMPoolClientError("connection_error", message, { cause: error });
}

function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
