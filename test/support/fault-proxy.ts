import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { Agent, request as httpsRequest } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type { Credentials } from "../../src/kube/credentials.ts";
import { type Fault, type Seen, seenOf } from "./fake-kube.ts";

export interface ProxyFault extends Omit<Fault, "what"> {
  /** As of the fake API server; besides, what is done before or after the real one has acted, whose answer is then lost, and a wait before it acts. */
  what: Fault["what"] | { before: () => void } | { after: () => void } | { delayMs: number };
}

/** One call as it came. */
export interface Asked extends Pick<Seen, "method" | "path" | "watch"> {
  /** When, in milliseconds of `performance.now()`. */
  at: number;
}

/** Called with each write before it is passed on. */
type OnWrite = (call: Seen) => Promise<void> | void;

/**
 * Stands between one operator and the real API server, and does to their calls what a test asks for. The operator speaks plain HTTP to it, its
 * token is passed on, and the way to the API server is TLS.
 */
export class FaultProxy implements AsyncDisposable {
  readonly faults: ProxyFault[] = [];
  /** Writes that were passed on, in order. */
  readonly writes: Seen[] = [];
  /** Everything that was asked for, whatever became of it, in order. */
  readonly asked: Asked[] = [];
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #target: URL;
  readonly #agent: Agent;
  readonly #watches = new Set<Watch>();
  #holds = false;
  #port = 0;
  onWrite: OnWrite = () => {};

  private constructor(target: URL, agent: Agent) {
    this.#target = target;
    this.#agent = agent;
    this.#server = createServer((request, response) => void this.#receive(request, response));
    this.#server.keepAliveTimeout = 0;
    this.#server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
    });
  }

  /** @param real the API server; who is let in there is up to each caller's own token */
  static async start(real: Credentials): Promise<FaultProxy> {
    const { ca } = (await real.read()).tls;
    const proxy = new FaultProxy(new URL(real.server), new Agent({ keepAlive: true, ...(ca !== undefined && { ca }) }));
    await proxy.#listen(0);
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  get watches(): number {
    return this.#watches.size;
  }

  fail(fault: ProxyFault): void {
    this.faults.push(fault);
  }

  /** From now on nothing comes on any watch, and nobody is told. What comes meanwhile is kept. */
  holdWatches(): void {
    this.#holds = true;
  }

  /** What was kept is delivered, and watches are watches again. */
  releaseWatches(): void {
    this.#holds = false;
    for (const watch of this.#watches) watch.deliver();
  }

  /** On the watches that are open nothing comes any more, and nobody is told; new ones are as ever. */
  stallWatches(): void {
    for (const watch of this.#watches) watch.stalled = true;
  }

  /** Resets every watch. */
  resetWatches(): void {
    for (const { response } of this.#watches) response.socket?.resetAndDestroy();
  }

  /** Another API server of the same cluster answers from now on; all connections are reset. */
  moveTo({ server }: Pick<Credentials, "server">): void {
    this.#target = new URL(server);
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  /** Nobody listens any more, and all connections are reset. Returns what takes it back. */
  async refuse(): Promise<() => Promise<void>> {
    const closed = once(this.#server, "close");
    this.#server.close();
    for (const socket of this.#sockets) socket.resetAndDestroy();
    await closed;
    return () => this.#listen(this.#port);
  }

  /** Every connection is reset, and each new one with its first call. Returns what takes it back. */
  breakOff(): () => void {
    const fault = { what: "reset" } as const;
    this.faults.unshift(fault);
    for (const socket of this.#sockets) socket.resetAndDestroy();
    return () => void this.faults.splice(this.faults.indexOf(fault), 1);
  }

  async close(): Promise<void> {
    if (this.#server.listening) await this.refuse();
    this.#agent.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #listen(port: number): Promise<void> {
    this.#server.listen(port, "127.0.0.1");
    await once(this.#server, "listening");
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  async #receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
    response.on("error", () => {});
    try {
      const call = await seen(request, this.url);
      const { method, path, watch } = call;
      this.asked.push({ at: performance.now(), method, path, watch });
      const what = this.#takeFault(call);
      if (typeof what === "object" && "delayMs" in what) await sleep(what.delayMs);
      if (!(await actBefore(what, response))) return;
      if (call.method !== "GET") {
        await this.onWrite(call);
        this.writes.push(call);
      }
      const answer = await this.#pass(call, request, response);
      if (call.watch && answer.statusCode === 200) this.#follow(answer, response);
      else await actAfter(what, answer, response);
    } catch {
      response.socket?.resetAndDestroy();
    }
  }

  #takeFault(call: Seen): ProxyFault["what"] | undefined {
    const fault = this.faults.find(({ when }) => when === undefined || when(call));
    if (fault?.times !== undefined && --fault.times <= 0) this.faults.splice(this.faults.indexOf(fault), 1);
    return fault?.what;
  }

  async #pass({ method, body }: Seen, request: IncomingMessage, response: ServerResponse): Promise<IncomingMessage> {
    const { hostname, port } = this.#target;
    const { host: _, connection: __, ...headers } = request.headers;
    const options = { hostname, port, path: request.url, method, headers, agent: this.#agent };
    const upstream = httpsRequest(options);
    // Whoever gives up gives up there too.
    response.once("close", () => void (response.writableFinished || upstream.destroy()));
    upstream.end(body);
    const [answer] = (await once(upstream, "response")) as [IncomingMessage];
    return answer;
  }

  #follow(answer: IncomingMessage, response: ServerResponse): void {
    response.writeHead(200, { "content-type": answer.headers["content-type"] ?? "application/json" });
    response.flushHeaders();
    const watch = new Watch(response);
    this.#watches.add(watch);
    response.on("close", () => {
      this.#watches.delete(watch);
      answer.destroy();
    });
    answer.on("data", (chunk: Buffer) => watch.take(chunk, this.#holds));
    answer.on("error", () => response.socket?.resetAndDestroy());
    answer.on("end", () => {
      if (!this.#holds) response.end();
    });
  }
}

class Watch {
  readonly response: ServerResponse;
  stalled = false;
  #kept: Buffer[] = [];

  constructor(response: ServerResponse) {
    this.response = response;
  }

  take(chunk: Buffer, held: boolean): void {
    if (this.stalled) return;
    if (held) this.#kept.push(chunk);
    else this.response.write(chunk);
  }

  deliver(): void {
    for (const chunk of this.#kept.splice(0)) this.response.write(chunk);
  }
}

async function seen(request: IncomingMessage, base: string): Promise<Seen> {
  const url = new URL(request.url ?? "", base);
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return seenOf(request, url, Buffer.concat(chunks));
}

/** False: nothing is passed on. */
async function actBefore(what: ProxyFault["what"] | undefined, response: ServerResponse): Promise<boolean> {
  if (what === undefined || what === "reset after") return true;
  if (what === "hang") return false;
  if (what === "reset") return cut(response);
  if ("before" in what) {
    what.before();
    return cut(response);
  }
  if ("raw" in what) response.writeHead(200, { "content-type": "application/json" }).end(what.raw);
  else if ("status" in what) refuse(response, what.status, what.reason, what.headers);
  else return true;
  return false;
}

async function actAfter(
  what: ProxyFault["what"] | undefined,
  answer: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of answer) chunks.push(chunk as Buffer);
  if (what === "reset after") return void cut(response);
  if (typeof what === "object" && "after" in what) {
    what.after();
    return void cut(response);
  }
  if (typeof what === "object" && "statusAfter" in what) return refuse(response, what.statusAfter, "Timeout");
  const { "transfer-encoding": _, connection: __, ...headers } = answer.headers;
  response.writeHead(answer.statusCode ?? 502, headers).end(Buffer.concat(chunks));
}

function cut(response: ServerResponse): false {
  response.socket?.resetAndDestroy();
  return false;
}

function refuse(response: ServerResponse, code: number, reason = "InternalError", headers = {}): void {
  const status = {
    kind: "Status",
    apiVersion: "v1",
    status: "Failure",
    code,
    reason,
    message: "as the test asked for",
  };
  response.writeHead(code, { "content-type": "application/json", ...headers }).end(JSON.stringify(status));
}

/** `PATCH statefulsets/apex`, `PATCH llmpools/apex/status`, `POST secrets/apex-token`: what a write is about, the same in every run. */
export function nameOfWrite({ method, path, body }: Seen): string {
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  const about = parts.slice(parts[0] === "api" ? 2 : 3);
  if (about[0] === "namespaces" && about.length > 2) about.splice(0, 2);
  if (method !== "POST") return about[0] === "events" ? `${method} events` : `${method} ${about.join("/")}`;
  const object = JSON.parse(body) as { metadata: { name?: string }; reason?: string };
  return `POST ${about[0]}/${about[0] === "events" ? object.reason : object.metadata.name}`;
}
