import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from "node:http";
import type { AddressInfo } from "node:net";

export interface SeenRequest {
  method: string;
  path: string;
  headers: IncomingHttpHeaders;
  body: string;
}

export type Answer = (request: IncomingMessage, response: ServerResponse) => void;

/** A web server on 127.0.0.1 whose every path answers as a test tells it, one answer after another, and that notes what it was asked. */
export class FakeWeb {
  readonly seen: SeenRequest[] = [];
  readonly #answers = new Map<string, Answer[]>();
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(): Promise<FakeWeb> {
    const server = createServer();
    const web = new FakeWeb(server);
    server.on("request", (request, response) => web.#answer(request, response));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return web;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Another `host` of the same machine (`localhost`) is another origin. */
  url(path: string, host = "127.0.0.1"): string {
    return `http://${host}:${this.port}${path}`;
  }

  /** What `path` (with its query) answers: the first answer once, and so on; the last one for ever. */
  on(path: string, ...answers: Answer[]): void {
    this.#answers.set(path, answers);
  }

  asked(path: string): SeenRequest[] {
    return this.seen.filter((request) => request.path === path);
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const path = request.url ?? "";
    const chunks: Buffer[] = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      const body = Buffer.concat(chunks).toString();
      this.seen.push({ method: request.method ?? "", path, headers: request.headers, body });
      const answers = this.#answers.get(path) ?? [status(404)];
      const answer = answers.length > 1 ? answers.shift() : answers[0];
      answer?.(request, response);
    });
  }
}

export function status(code: number, headers: Record<string, string> = {}): Answer {
  return (_, response) => response.writeHead(code, headers).end("the server's own words");
}

export function redirect(location: string): Answer {
  return status(302, { location });
}

export function json(body: unknown, contentType = "application/json", code = 200): Answer {
  return (_, response) => response.writeHead(code, { "content-type": contentType }).end(JSON.stringify(body));
}

export interface FileFaults {
  etag?: string;
  /** Ends the connection after this many bytes of this answer. */
  cutAfter?: number;
  /** Sends this many bytes of this answer, then nothing more. */
  stallAfter?: number;
  /** What the answer says its length is, in place of the truth. */
  sayLength?: number;
  /** No length at all: chunked. */
  chunked?: boolean;
  /** Does not know `Range`. */
  noRange?: boolean;
}

/** A file, with `Range` and `If-Range` as a good server has them, and with the faults asked for. */
export function file(content: Buffer, faults: FileFaults = {}): Answer {
  return (request, response) => {
    const headers: Record<string, string | number> = faults.etag === undefined ? {} : { etag: faults.etag };
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
    const ifRange = request.headers["if-range"];
    const partial = from > 0 && !faults.noRange && (ifRange === undefined || ifRange === faults.etag);
    if (partial && from >= content.length) {
      response.writeHead(416, { "content-range": `bytes */${content.length}` }).end();
      return;
    }
    const body = partial ? content.subarray(from) : content;
    if (partial) headers["content-range"] = `bytes ${from}-${content.length - 1}/${content.length}`;
    if (!faults.chunked) headers["content-length"] = faults.sayLength ?? body.length;
    if (faults.sayLength !== undefined) headers.connection = "close";
    // Node itself refuses to lie about the length.
    response.strictContentLength = false;
    response.writeHead(partial ? 206 : 200, headers);
    const stop = faults.cutAfter ?? faults.stallAfter;
    if (stop === undefined) {
      response.end(body);
      return;
    }
    response.write(body.subarray(0, stop), () => {
      if (faults.cutAfter !== undefined) response.socket?.end();
    });
  };
}
