import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { LLMBackend } from "../../src/api/backend.ts";
import type { InstanceState, Warmup } from "../../src/api/instance.ts";
import type { ModelList } from "../../src/api/openai.ts";
import type { Clock } from "../../src/lib/clock.ts";
import { LLMPoolError } from "../../src/lib/errors.ts";
import type { Logger } from "../../src/lib/logger.ts";
import { sendError, sendJson } from "./answer.ts";
import type { TokenCheck } from "./auth.ts";
import { discardBody } from "./body.ts";
import { sessionOfPath } from "./headers.ts";
import { CHAT, COMPLETION, Inference } from "./inference.ts";
import { DEFAULT_LIMITS, MAX_RECORD_WAIT_MS, type ServerLimits } from "./limits.ts";
import { type InstanceMetrics, makeInstanceMetrics } from "./metrics.ts";
import { UsageRecords } from "./records.ts";
import { answering, SessionCalls } from "./sessions.ts";
import { Slots } from "./slots.ts";
import { InstanceStatus } from "./status.ts";

export interface InstanceServerOptions {
  id: string;
  /** Requests that run at once, and warm KV caches. */
  sessions: number;
  requestTimeoutMs: number;
  tokens: TokenCheck;
  clock: Clock;
  log: Logger;
  limits?: ServerLimits;
  /** Told how many requests run, whenever that changes. */
  onRunning?: (running: number) => void;
}

/** How long the last bytes of answers may take to leave when the server closes, in milliseconds. */
const FLUSH_MS = 2_000;

/** One instance's HTTP side: the instance protocol (docs/instance-protocol.md) over one backend. Answers probes before there is a backend. */
export class InstanceServer implements AsyncDisposable {
  readonly metrics: InstanceMetrics;
  readonly #options: InstanceServerOptions;
  readonly #status: InstanceStatus;
  readonly #slots: Slots;
  readonly #records: UsageRecords;
  readonly #inference: Inference;
  readonly #sessions: SessionCalls;
  readonly #http: Server;
  readonly #discardMs: number;
  #closing: Promise<void> | undefined;

  constructor(options: InstanceServerOptions) {
    const { clock, limits = DEFAULT_LIMITS } = options;
    this.#options = options;
    this.#discardMs = limits.discardMs;
    this.#status = new InstanceStatus(options.id, clock);
    this.#slots = new Slots({
      id: options.id,
      slots: options.sessions,
      waiting: limits.waiting,
      clock,
      speed: this.#status.speed,
      onRunning: options.onRunning ?? (() => {}),
    });
    this.#records = new UsageRecords(clock);
    this.metrics = makeInstanceMetrics(this.#status, this.#slots);
    const deps = { status: this.#status, slots: this.#slots, limits, clock };
    this.#inference = new Inference({ ...options, ...deps, records: this.#records, metrics: this.metrics });
    this.#sessions = new SessionCalls(deps);
    this.#http = makeHttp(limits, (request, response) => void this.#handle(request, response));
  }

  /** Resolves with the port. */
  listen(host: string, port: number): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#http.once("error", reject);
      this.#http.listen(port, host, () => {
        this.#http.off("error", reject);
        resolve((this.#http.address() as AddressInfo).port);
      });
    });
  }

  get state(): InstanceState {
    return this.#status.state;
  }

  /** `Ready` needs the backend. From `Draining` on no new work is taken; what has been accepted goes on. */
  become(state: InstanceState, backend?: LLMBackend): void {
    this.#status.become(state, backend);
  }

  /** What the warm-up has shown, for `/readyz` and the metrics. */
  warmedUp(warmup: Warmup): void {
    this.#status.warmedUp(warmup);
    this.metrics.warmup.set(warmup.seconds);
  }

  /** Resolves when nothing runs or waits. */
  idle(): Promise<void> {
    return this.#slots.idle();
  }

  /** Ends every request now: `instance_unavailable`. */
  abortAll(): void {
    this.#inference.abortAll(
      new LLMPoolError("instance_unavailable", "this instance is shutting down", { retryAfterSeconds: 1 }),
    );
  }

  /** Ends what runs, lets the last bytes leave, and closes every connection. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.become("Draining");
    this.abortAll();
    if (!this.#http.listening) return;
    const closed = new Promise<void>((resolve) => this.#http.close(() => resolve()));
    // Node closes only what is idle right now, not what becomes idle when its answer has left. Real timers: they hold the process until then.
    const idle = setInterval(() => this.#http.closeIdleConnections(), 20);
    const cut = setTimeout(() => this.#http.closeAllConnections(), FLUSH_MS);
    await closed;
    clearInterval(idle);
    clearTimeout(cut);
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const [path = "", query] = (request.url ?? "").split("?", 2);
    if (this.#status.state === "Draining") response.setHeader("connection", "close");
    await answering(response, () => this.#route(request, response, path, query));
    discardBody(request, this.#options.clock, this.#discardMs);
  }

  async #route(
    request: IncomingMessage,
    response: ServerResponse,
    path: string,
    query: string | undefined,
  ): Promise<void> {
    if (path === "/healthz") return only("GET", request, response, () => this.#healthz(response));
    if (path === "/readyz") return only("GET", request, response, () => this.#readyz(response));
    if (!(await this.#options.tokens.accepts(request.headers.authorization))) {
      throw new LLMPoolError("unauthorized", "this instance needs its pool's token: Authorization: Bearer …");
    }
    switch (path) {
      case "/v1/chat/completions":
        return only("POST", request, response, () => this.#inference.serve(CHAT, request, response));
      case "/v1/completions":
        return only("POST", request, response, () => this.#inference.serve(COMPLETION, request, response));
      case "/v1/models":
        return only("GET", request, response, () => this.#models(response));
      case "/internal/drain":
        return only("POST", request, response, () => this.#drain(response));
    }
    const [, record] = /^\/internal\/requests\/([^/]+)$/.exec(path) ?? [];
    if (record !== undefined) return only("GET", request, response, () => this.#record(record, query, response));
    const [, session, verb] = /^\/internal\/sessions\/([^/]+)(?:\/(export|import))?$/.exec(path) ?? [];
    if (session === undefined) throw new LLMPoolError("not_found", "an instance has no such path");
    const key = sessionOfPath(session);
    if (verb === "export") return only("POST", request, response, () => this.#sessions.export(key, response));
    if (verb === "import") return only("POST", request, response, () => this.#sessions.import(key, request, response));
    return only("DELETE", request, response, () => this.#sessions.delete(key, response));
  }

  #healthz(response: ServerResponse): void {
    sendJson(response, 200, { ...this.#status.identity(), state: this.#status.state });
  }

  #readyz(response: ServerResponse): void {
    const readiness = this.#status.readiness();
    sendJson(response, readiness.state === "Ready" ? 200 : 503, readiness);
  }

  #models(response: ServerResponse): void {
    const { facts } = this.#status.forWork();
    const created = Math.floor(this.#options.clock.wall() / 1000);
    const list: ModelList = {
      object: "list",
      data: [{ id: facts.modelName, object: "model", created, owned_by: "llmpool" }],
    };
    sendJson(response, 200, list);
  }

  #drain(response: ServerResponse): void {
    this.become("Draining");
    sendJson(response, 200, { state: this.state, running: this.#slots.running, waiting: this.#slots.waiting });
  }

  async #record(id: string, query: string | undefined, response: ServerResponse): Promise<void> {
    const seconds = Number(new URLSearchParams(query).get("wait_s") ?? 0);
    if (!(seconds >= 0))
      throw new LLMPoolError("invalid_request", "wait_s must be a number of seconds", { param: "wait_s" });
    const gone = new AbortController();
    response.once("close", () => gone.abort());
    const record = await this.#records.find(decode(id), Math.min(seconds * 1000, MAX_RECORD_WAIT_MS), gone.signal);
    if (record) sendJson(response, 200, record);
    else
      sendError(
        response,
        new LLMPoolError("not_found", "this process has not seen that request, or has forgotten it"),
        this.#status.identity(),
      );
  }
}

async function only(
  method: string,
  request: IncomingMessage,
  response: ServerResponse,
  call: () => void | Promise<void>,
): Promise<void> {
  if (request.method === method) return call();
  response.setHeader("allow", method);
  throw new LLMPoolError("method_not_allowed", `use ${method} here`);
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function makeHttp(
  limits: ServerLimits,
  onRequest: (request: IncomingMessage, response: ServerResponse) => void,
): Server {
  const server = createServer(
    {
      maxHeaderSize: 16 * 1024,
      headersTimeout: limits.headersMs,
      // A body has its own time limit where it is read; this one would also cut imports that make progress.
      requestTimeout: 0,
      connectionsCheckingInterval: Math.min(1_000, limits.headersMs / 2),
      keepAliveTimeout: limits.keepAliveMs,
      keepAlive: true,
      noDelay: true,
    },
    onRequest,
  );
  server.maxConnections = limits.connections;
  server.maxHeadersCount = 100;
  return server;
}
