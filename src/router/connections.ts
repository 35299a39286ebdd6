import { connect, type Socket } from "node:net";
import type { Clock } from "../lib/clock.ts";
import { type AnswerHandler, AnswerParser } from "./http-answer.ts";

/** Follows one request to its end: `onEnd`, or `onError` when that does not come; then nothing more. Neither comes after an abort. */
export interface ExchangeHandler extends AnswerHandler {
  onEnd(): void;
  onError(cause: Error): void;
}

/** A request that has been sent. */
export interface Exchange {
  /** Ends it now. The other side notices by its closed connection. */
  abort(): void;
  /** The handler keeps up again. */
  resume(): void;
}

/** How long an instance has to accept a connection, in milliseconds. It is one machine or one cluster network away. */
const CONNECT_MS = 5_000;
/** A connection that carried nothing for this long, to twice of it, is closed; instances close theirs later than that. */
const IDLE_MS = 30_000;
const READ_BYTES = 16 * 1024;
/** Up to this size head and body leave in one piece, in bytes: copying costs less than a second write. */
const ONE_PIECE_BYTES = 16 * 1024;

/**
 * Connections to one instance, each with one request at a time. Written for the path that every token takes, where it costs half of what
 * a general client does; what happens seldom (records, probes) goes through undici.
 */
export class Connections {
  readonly #address: { host: string; port: number };
  readonly #authority: string;
  readonly #clock: Clock;
  readonly #open = new Set<Connection>();
  /** The latest used last: those that are not needed grow old. */
  #idle: Connection[] = [];
  #sweeps = 0;
  #cancelSweep: (() => void) | undefined;
  #closed = false;

  /** `url` is `http://host:port`. */
  constructor(url: string, clock: Clock) {
    const { hostname, port, host } = new URL(url);
    this.#address = { host: hostname.replace(/^\[|\]$/g, ""), port: Number(port || 80) };
    this.#authority = host;
    this.#clock = clock;
  }

  /** Sends a POST. `fields` are header names and values in turn, safe to write as they are. The handler hears of it later, never at once. */
  post(path: string, fields: readonly string[], body: Buffer, handler: ExchangeHandler): Exchange {
    let head = `POST ${path} HTTP/1.1\r\nhost: ${this.#authority}\r\ncontent-length: ${body.length}\r\n`;
    for (let i = 0; i < fields.length; i += 2) head += `${fields[i]}: ${fields[i + 1]}\r\n`;
    const request = new Request(`${head}\r\n`, body, handler);
    if (this.#closed) queueMicrotask(() => request.fail(new Error("the instance is gone")));
    else this.#send(request, this.#idle.pop());
    return request;
  }

  /** Ends all that runs with an error. */
  close(): void {
    this.#closed = true;
    this.#cancelSweep?.();
    for (const connection of [...this.#open]) connection.close(new Error("the instance is gone"));
  }

  #send(request: Request, idle: Connection | undefined): void {
    const connection = idle ?? new Connection(this.#address, this.#clock, this.#events);
    if (!idle) this.#open.add(connection);
    connection.send(request);
  }

  readonly #events: ConnectionEvents = {
    onFree: (connection) => {
      connection.idleSince = this.#sweeps;
      this.#idle.push(connection);
      if (!this.#closed) this.#cancelSweep ??= this.#clock.after(IDLE_MS, () => this.#sweep());
    },
    onClosed: (connection, request, cause) => {
      this.#open.delete(connection);
      const at = this.#idle.indexOf(connection);
      if (at >= 0) this.#idle.splice(at, 1);
      if (!request) return;
      // The other side may close a connection that lies idle at any moment, also in that of its next use.
      const isStale = connection.used && !request.isAnswered && !request.isOver && !this.#closed;
      if (isStale) this.#send(request, undefined);
      else request.fail(cause);
    },
  };

  #sweep(): void {
    this.#cancelSweep = undefined;
    for (const connection of [...this.#idle]) if (connection.idleSince < this.#sweeps) connection.close();
    this.#sweeps++;
    if (this.#idle.length > 0) this.#cancelSweep = this.#clock.after(IDLE_MS, () => this.#sweep());
  }
}

/** One POST and what has become of it. */
class Request implements Exchange, AnswerHandler {
  readonly head: string;
  readonly body: Buffer;
  connection: Connection | undefined;
  isAnswered = false;
  #handler: ExchangeHandler | undefined;

  constructor(head: string, body: Buffer, handler: ExchangeHandler) {
    this.head = head;
    this.body = body;
    this.#handler = handler;
  }

  get isOver(): boolean {
    return this.#handler === undefined;
  }

  abort(): void {
    this.#handler = undefined;
    this.connection?.close();
  }

  resume(): void {
    this.connection?.resume();
  }

  onHead(status: number, contentType: string): void {
    this.isAnswered = true;
    this.#handler?.onHead(status, contentType);
  }

  onBody(bytes: Buffer): boolean {
    return this.#handler?.onBody(bytes) ?? true;
  }

  end(): void {
    this.#over()?.onEnd();
  }

  fail(cause: Error): void {
    this.#over()?.onError(cause);
  }

  #over(): ExchangeHandler | undefined {
    const handler = this.#handler;
    this.#handler = undefined;
    this.connection = undefined;
    return handler;
  }
}

interface ConnectionEvents {
  onFree(connection: Connection): void;
  /** `request` is the one that was cut off. Called once, and nothing after it. */
  onClosed(connection: Connection, request: Request | undefined, cause: Error): void;
}

class Connection {
  /** Has carried an answer before. */
  used = false;
  idleSince = 0;
  readonly #socket: Socket;
  readonly #events: ConnectionEvents;
  readonly #cancelTimeout: () => void;
  #request: Request | undefined;
  #parser: AnswerParser | undefined;
  #closed = false;

  constructor(address: { host: string; port: number }, clock: Clock, events: ConnectionEvents) {
    this.#events = events;
    this.#socket = connect({
      ...address,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: 60_000,
      // One buffer for all that comes, instead of one for each piece.
      onread: { buffer: Buffer.allocUnsafeSlow(READ_BYTES), callback: (length, buffer) => this.#read(buffer, length) },
    });
    this.#socket.on("error", (error) => this.close(error));
    this.#socket.on("end", () => this.#ended());
    this.#socket.on("close", () => this.close());
    this.#cancelTimeout = clock.after(CONNECT_MS, () => this.close(new Error("no connection in time")));
    this.#socket.once("connect", this.#cancelTimeout);
  }

  send(request: Request): void {
    this.#request = request;
    request.connection = this;
    this.#parser = new AnswerParser(request);
    const { head, body } = request;
    if (body.length > ONE_PIECE_BYTES) {
      this.#socket.cork();
      this.#socket.write(head, "latin1");
      this.#socket.write(body);
      this.#socket.uncork();
      return;
    }
    const whole = Buffer.allocUnsafe(head.length + body.length);
    whole.write(head, 0, "latin1");
    whole.set(body, head.length);
    this.#socket.write(whole);
  }

  resume(): void {
    if (!this.#closed) this.#socket.resume();
  }

  close(cause: Error = new Error("the other side closed the connection")): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#cancelTimeout();
    this.#socket.destroy();
    const request = this.#request;
    this.#request = undefined;
    this.#events.onClosed(this, request, cause);
  }

  /** False stops the reading until `resume`. */
  #read(shared: Uint8Array, length: number): boolean {
    const parser = this.#parser;
    if (this.#closed || !parser) {
      this.close(new Error("bytes that nobody asked for"));
      return false;
    }
    try {
      // A copy, because those who get it may keep it, and the next read writes over it.
      if (parser.push(Buffer.from(shared.subarray(0, length)))) this.#finish(parser);
      return parser.keepsUp || parser.done;
    } catch (error) {
      this.close(error as Error);
      return false;
    }
  }

  #ended(): void {
    try {
      const parser = this.#parser;
      if (parser?.end()) this.#finish(parser);
      this.close();
    } catch (error) {
      this.close(error as Error);
    }
  }

  #finish({ reusable }: AnswerParser): void {
    const request = this.#request;
    this.#request = undefined;
    this.#parser = undefined;
    this.used = true;
    // First free, then told: what the handler does next may need a connection.
    if (reusable && !this.#closed) this.#events.onFree(this);
    else this.close();
    request?.end();
  }
}
