import { type IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import { LLMPoolError, toErrorBody } from "../lib/errors.ts";

/** A name or an address, and a port. */
const HOST = /^([A-Za-z0-9._~-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?$/;
/** Seen last: most callers write the same. */
let goodHost = "";

/** What Node's parser takes and another server may read differently, or refuse. */
export function ambiguity({ headers, httpVersionMinor }: IncomingMessage): LLMPoolError | undefined {
  const coding = headers["transfer-encoding"];
  if (coding !== undefined && (coding.toLowerCase() !== "chunked" || httpVersionMinor === 0)) {
    return new LLMPoolError("invalid_request", "the only transfer coding is chunked, in HTTP/1.1", {
      param: "transfer-encoding",
    });
  }
  const { host } = headers;
  if (host === undefined || host === goodHost) return undefined;
  if (!HOST.test(host)) return new LLMPoolError("invalid_request", "Host must be one name and port", { param: "host" });
  goodHost = host;
  return undefined;
}

const STATUS_OF_PARSE_ERROR: Record<string, [number, string]> = {
  HPE_HEADER_OVERFLOW: [431, "the headers are larger than 16 KiB"],
  ERR_HTTP_REQUEST_TIMEOUT: [408, "the request did not arrive in time"],
};

/** What Node has of a connection that it answers. */
type AnsweredSocket = Socket & { _httpMessage?: (ServerResponse & { req: IncomingMessage }) | null };

/** Ends connections with the one answer that is still owed: nothing that comes after it can be trusted, and nothing of it is run. */
export class Refusals {
  readonly #ended = new WeakSet<Socket>();

  ended(socket: Socket): boolean {
    return this.#ended.has(socket);
  }

  /** A request that is HTTP, and is not served. */
  refuse(req: IncomingMessage, res: ServerResponse, error: LLMPoolError): void {
    this.#ended.add(req.socket);
    const { status, body, headers } = toErrorBody(error);
    const text = JSON.stringify(body);
    res.writeHead(status, {
      ...headers,
      "content-type": "application/json",
      "content-length": Buffer.byteLength(text),
      connection: "close",
    });
    res.end(text);
    // The body was not read: without this the connection would wait for it.
    req.resume();
  }

  /** A request that is not HTTP. Those before it on the connection that were are answered. */
  malformed(error: NodeJS.ErrnoException, socket: AnsweredSocket): void {
    if (this.#ended.has(socket) && socket.writable) return;
    this.#ended.add(socket);
    const answering = socket._httpMessage;
    if (answering?.req.complete) endAfter(answering, socket);
    else if (!socket.writable || socket.bytesWritten > 0 || error.code === "ECONNRESET") {
      socket.destroy();
    } else answerMalformed(error, socket);
  }
}

function answerMalformed(error: NodeJS.ErrnoException, socket: Socket): void {
  const [status, message] = STATUS_OF_PARSE_ERROR[error.code ?? ""] ?? [400, "this is not a valid HTTP request"];
  const { body, headers } = toErrorBody(new LLMPoolError("invalid_request", message));
  const text = JSON.stringify(body);
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    ...Object.entries(status === 408 ? {} : headers).map(([name, value]) => `${name}: ${value}`),
    "connection: close",
    "content-type: application/json",
    `content-length: ${Buffer.byteLength(text)}`,
  ];
  socket.end(`${head.join("\r\n")}\r\n\r\n${text}`);
}

function endAfter(answering: ServerResponse, socket: AnsweredSocket): void {
  answering.once("close", () =>
    setImmediate(() => {
      const next = socket._httpMessage;
      if (next?.req.complete) endAfter(next, socket);
      else socket.destroySoon();
    }),
  );
}
