import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { RequestRecord } from "../../src/api/instance.ts";
import type { Endpoint, EndpointSource } from "../../src/core/endpoint.ts";

/** One call that reached a fake instance. */
export interface Received {
  path: string;
  headers: IncomingMessage["headers"];
  body: Record<string, unknown>;
  /** Resolves when the router closed the connection before the answer was complete. */
  aborted: Promise<void>;
}

export type Behaviour = (call: Received, res: ServerResponse) => void | Promise<void>;

export const USAGE = {
  prompt_tokens: 7,
  completion_tokens: 3,
  total_tokens: 10,
  prompt_tokens_details: { cached_tokens: 2 },
};
export const USAGE_FRAME = `: usage {"prompt_tokens":7,"completion_tokens":3,"cached_tokens":2}\n\n`;

/** A whole, plain answer, streamed when asked for. */
export const answerHello: Behaviour = ({ body }, res) => {
  if (body.stream === true) {
    startStream(res);
    const usage = body.stream_options === undefined ? "" : `data: ${JSON.stringify({ choices: [], usage: USAGE })}\n\n`;
    res.end(`${chunk("hel")}${chunk("lo")}${chunk("", "stop")}${usage}${USAGE_FRAME}data: [DONE]\n\n`);
  } else {
    json(res, 200, {
      choices: [{ index: 0, message: { role: "assistant", content: "hello" }, finish_reason: "stop" }],
      usage: USAGE,
    });
  }
};

export function chunk(content: string, finish: string | null = null): string {
  return `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content }, finish_reason: finish }] })}\n\n`;
}

export function startStream(res: ServerResponse): void {
  res.writeHead(200, { "content-type": "text/event-stream" });
}

export function json(res: ServerResponse, status: number, body: object): void {
  res.writeHead(status, { "content-type": "application/json" });
  res.end(JSON.stringify(body));
}

export function refuse(res: ServerResponse, status: number, code: string): void {
  json(res, status, { error: { message: `the fake says ${code}`, type: "server_error", code, param: null } });
}

/** An instance that does what a test tells it: the faults that a healthy one does not have. */
export class FakeInstance implements AsyncDisposable {
  readonly id: string;
  readonly received: Received[] = [];
  readonly deletedSessions: string[] = [];
  behave: Behaviour = answerHello;
  /** Answers of /internal/requests; a request that is not in it is unknown. */
  readonly records = new Map<string, Pick<RequestRecord, "prompt_tokens" | "completion_tokens" | "cached_tokens">>();
  uptimeSeconds = 1_000_000;
  /** Answers nothing about requests: the connection breaks. */
  mute = false;
  readonly #server: Server;

  private constructor(id: string) {
    this.id = id;
    this.#server = createServer((req, res) => void this.#handle(req, res));
  }

  static async start(id: string): Promise<FakeInstance> {
    const instance = new FakeInstance(id);
    await new Promise<void>((resolve) => instance.#server.listen(0, "127.0.0.1", resolve));
    return instance;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  endpoint(change: Partial<Endpoint> = {}): Endpoint {
    return {
      uid: `uid-${this.id}`,
      id: this.id,
      variant: "default",
      url: this.url,
      state: "Ready",
      restarts: 0,
      ...change,
    };
  }

  async close(): Promise<void> {
    if (!this.#server.listening) return;
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #handle(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const path = req.url ?? "";
    const { promise: aborted, resolve } = Promise.withResolvers<void>();
    res.on("close", () => {
      if (!res.writableFinished) resolve();
    });
    const chunks: Buffer[] = [];
    for await (const part of req) chunks.push(part as Buffer);
    const record = /^\/internal\/requests\/([^?]+)/.exec(path)?.[1];
    const session = /^\/internal\/sessions\/(.+)/.exec(path)?.[1];
    if (record !== undefined) this.#answerRecord(record, res);
    else if (session !== undefined) {
      this.deletedSessions.push(decodeURIComponent(session));
      json(res, 200, {});
    } else {
      const body = JSON.parse(Buffer.concat(chunks).toString()) as Record<string, unknown>;
      const call = { path, headers: req.headers, body, aborted };
      this.received.push(call);
      await this.behave(call, res);
    }
  }

  #answerRecord(id: string, res: ServerResponse): void {
    const known = this.records.get(id);
    if (this.mute) res.destroy();
    else if (known) json(res, 200, { id, done: true, ...known });
    else json(res, 404, { id: this.id, boot: "b", uptime_s: this.uptimeSeconds });
  }
}

/** Endpoints that change when a test says so. */
export class FakeSource implements EndpointSource {
  #endpoints: readonly Endpoint[];
  readonly #listeners = new Set<() => void>();

  constructor(endpoints: readonly Endpoint[]) {
    this.#endpoints = endpoints;
  }
  list(): readonly Endpoint[] {
    return this.#endpoints;
  }
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
  set(endpoints: readonly Endpoint[]): void {
    this.#endpoints = endpoints;
    for (const listener of this.#listeners) listener();
  }
}
