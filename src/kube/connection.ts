import { createHash } from "node:crypto";
import { Agent, type Dispatcher, ProxyAgent } from "undici";
import type { Clock } from "../lib/clock.ts";
import { sleep } from "../lib/sleep.ts";
import { TokenBucket } from "./backoff.ts";
import type { Access, Credentials } from "./credentials.ts";
import { unlessAborted } from "./deadline.ts";
import { ConnectionError } from "./errors.ts";

/** How long what was read of tokens and certificates is used, in milliseconds: client-go's period. A 401 ends it at once. */
const ACCESS_MS = 60_000;
/** First TCP keep-alive probe after this silence; nine more, a second apart, and a peer that is gone is noticed within 40 s. */
const KEEP_ALIVE_MS = 30_000;
/** How long an idle connection is kept for the next call. The server's own limit is 90 s, a Lease is renewed every 2 s. */
const IDLE_MS = 30_000;
/** A server that comes back is asked by everybody at once. For so long after the last failure, in milliseconds: twice the longest wait for a next try. */
const RETURN_MS = 60_000;
/** So often it is asked meanwhile by this one; the first few at once. */
const RETURN_PER_SECOND = 30;
const RETURN_BURST = 10;

export interface RawRequest {
  method: Dispatcher.HttpMethod;
  /** With its query. */
  path: string;
  headers: Record<string, string>;
  body?: string;
}

export interface ConnectionOptions {
  credentials: Credentials;
  clock: Clock;
  /** `llmpool-operator/0.1.0` */
  userAgent: string;
}

/**
 * All traffic of a process to one API server: one pool of connections, built again only when the certificates change. HTTP/1.1, so that each
 * watch has a connection of its own and none waits behind another.
 */
export class Connection implements AsyncDisposable {
  readonly server: string;
  /** The namespace to work in when none is named. */
  readonly namespace: string | undefined;
  readonly #options: ConnectionOptions;
  #access: { value: Promise<Access>; readAt: number } | undefined;
  #pool: { access: Access; key: string; dispatcher: Dispatcher } | undefined;
  /** With those that were replaced and still carry a watch. */
  readonly #dispatchers = new Set<Dispatcher>();
  /** When the server could not be reached last, on the clock. */
  #failedAt = Number.NEGATIVE_INFINITY;
  readonly #pace: TokenBucket;
  #closed = false;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#pace = new TokenBucket(RETURN_PER_SECOND, RETURN_BURST, options.clock.now());
    this.server = options.credentials.server;
    this.namespace = options.credentials.namespace;
  }

  /**
   * Has the credentials at hand. Before the call and outside of its deadline: a plugin may ask a person to log in. Rejects with a
   * ConnectionError when they cannot be had.
   */
  async prepare(signal: AbortSignal | undefined): Promise<void> {
    try {
      await unlessAborted(this.#read(), signal);
    } catch (error) {
      signal?.throwIfAborted();
      this.#access = undefined;
      throw new ConnectionError(`no credentials for the API server at ${this.server}`, error);
    }
  }

  /**
   * Resolves with the head of the answer, of whatever status; its body has to be read or dumped. Rejects with a ConnectionError, or with the
   * signal's reason, which also cuts the body.
   */
  async send(request: RawRequest, signal: AbortSignal): Promise<Dispatcher.ResponseData> {
    const known = this.#access;
    const answer = await this.#dispatch(request, signal);
    // A token that was rotated early, or a pod's that outlived its renewal: read again, once.
    if (answer.statusCode !== 401 || known === undefined || known !== this.#access) return answer;
    await answer.body.dump();
    this.#access = undefined;
    return this.#dispatch(request, signal);
  }

  async #dispatch({ method, path, headers, body }: RawRequest, signal: AbortSignal): Promise<Dispatcher.ResponseData> {
    try {
      const access = await this.#read();
      signal.throwIfAborted();
      await this.#turn(signal);
      return await this.#dispatcher(access).request({
        origin: this.server,
        method,
        path,
        headers: { "user-agent": this.#options.userAgent, ...headers, ...access.headers },
        body: body ?? null,
        signal,
        // Whoever calls knows what silence means: a call has a deadline, a watch may be quiet.
        headersTimeout: 0,
        bodyTimeout: 0,
      });
    } catch (error) {
      const givenUp = signal.aborted && !(signal.reason instanceof ConnectionError);
      if (!givenUp) this.#failedAt = this.#options.clock.now();
      if (signal.aborted) throw signal.reason;
      // What fails in a handshake may be a certificate that has just been replaced.
      this.#access = undefined;
      throw new ConnectionError(`cannot reach the API server at ${this.server}`, error);
    }
  }

  /** Resolves when the next request may go: at once, unless the server could not be reached lately. */
  async #turn(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    const now = clock.now();
    if (now - this.#failedAt >= RETURN_MS) return;
    const waitMs = this.#pace.take(now);
    if (waitMs > 0) await sleep(clock, waitMs, signal);
  }

  #read(): Promise<Access> {
    const now = this.#options.clock.now();
    if (this.#access === undefined || now - this.#access.readAt >= ACCESS_MS)
      this.#access = { value: this.#options.credentials.read(), readAt: now };
    return this.#access.value;
  }

  #dispatcher(access: Access): Dispatcher {
    if (this.#closed) throw new Error("the connection is closed");
    if (this.#pool?.access === access) return this.#pool.dispatcher;
    const { tls, proxy } = access;
    const key = createHash("sha256")
      .update(JSON.stringify([tls, proxy]))
      .digest("hex");
    if (this.#pool?.key === key) {
      this.#pool.access = access;
      return this.#pool.dispatcher;
    }
    const old = this.#pool?.dispatcher;
    const connect = { ...tls, keepAlive: true, keepAliveInitialDelay: KEEP_ALIVE_MS, timeout: 10_000 };
    const shared = { allowH2: false, keepAliveTimeout: IDLE_MS };
    const dispatcher =
      proxy === undefined
        ? new Agent({ ...shared, connect })
        : new ProxyAgent({ ...shared, uri: proxy, requestTls: connect });
    this.#pool = { access, key, dispatcher };
    this.#dispatchers.add(dispatcher);
    // What it still carries may end by itself; new calls go the new way.
    void old?.close().then(() => this.#dispatchers.delete(old));
    return dispatcher;
  }

  /** Cuts whatever is open. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#dispatchers].map((dispatcher) => dispatcher.destroy()));
    this.#dispatchers.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
