import { connect, type Socket } from "node:net";
import { Dispatcher } from "undici";
import type { Clock } from "../lib/clock.ts";
import { type AnswerEvents, AnswerParser } from "./http-answer.ts";
import { afterPromises } from "./turn.ts";

/** How long an instance has to accept a connection, in milliseconds. It is one machine or one cluster network away. */
const CONNECT_MS = 5_000;
/** A connection that carried nothing for this long, to twice of it, is closed; instances close theirs later than that. */
const IDLE_MS = 30_000;
/** It never came to a connection: the other side has not seen a byte of the request. */
export class NoConnectionError extends Error {
  override readonly name = "NoConnectionError";
}

const READ_BYTES = 16 * 1024;
/** Up to this size head and body leave in one piece, in bytes: copying costs less than a second write. */
const ONE_PIECE_BYTES = 16 * 1024;
/** Where they are put together. What the kernel takes at once, as it mostly does, needs no memory of its own. */
let desk = Buffer.allocUnsafeSlow(ONE_PIECE_BYTES);
const UNSAFE = /[^\x20-\x7e]/;

/**
 * An undici dispatcher for one instance, over plain HTTP/1.1: as many connections as there are requests at once, each with one at a time.
 * It does what undici's Pool does, for half of the CPU, because it does no more than the path to an instance needs: `headers` are an array
 * of names and ASCII values, `body` is a Buffer or nothing, and time limits are the caller's own (`abort`).
 */
export class Connections extends Dispatcher {
  readonly #address: { host: string; port: number };
  readonly #authority: string;
  readonly #clock: Clock;
  readonly #open = new Set<Connection>();
  /** The latest used last: those that are not needed grow old. */
  readonly #idle: Connection[] = [];
  #sweeps = 0;
  #cancelSweep: (() => void) | undefined = undefined;
  #closed = false;

  /** `url` is `http://host:port`. */
  constructor(url: string, clock: Clock) {
    super();
    const { hostname, port, host } = new URL(url);
    this.#address = { host: hostname.replace(/^\[|\]$/g, ""), port: Number(port || 80) };
    this.#authority = host;
    this.#clock = clock;
  }

  /** The handler hears of an answer or an error later, never at once; of the start at once. */
  override dispatch(options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    const { method, path, headers = [], body = null } = options;
    if (!Array.isArray(headers) || (body !== null && !Buffer.isBuffer(body))) {
      throw new TypeError("headers must be an array, and a body a Buffer");
    }
    let head = `${method} ${path} HTTP/1.1\r\nhost: ${this.#authority}\r\n`;
    if (body) head += `content-length: ${body.length}\r\n`;
    for (let i = 0; i < headers.length; i += 2) {
      const value = String(headers[i + 1]);
      if (UNSAFE.test(value)) throw new TypeError(`the value of the header ${headers[i]} cannot stand in one`);
      head += `${headers[i]}: ${value}\r\n`;
    }
    const request = new Exchange(`${head}\r\n`, body, handler);
    handler.onRequestStart?.(request, null);
    if (request.isOver) return true;
    if (this.#closed) queueMicrotask(() => request.fail(new NoConnectionError("the instance is gone")));
    else this.#send(request, this.#idle.pop());
    return true;
  }

  /** Ends all that runs with an error. */
  override async destroy(): Promise<void> {
    this.#closed = true;
    this.#cancelSweep?.();
    for (const connection of [...this.#open]) connection.close(new Error("the instance is gone"));
  }

  override close(): Promise<void> {
    return this.destroy();
  }

  #send(request: Exchange, idle: Connection | undefined): void {
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
      if (!request || request.isOver) return;
      // The other side may close a connection that lies idle at any moment, also in that of its next use. Nobody knows whether it has seen
      // that one: what only asks is asked again, and who sent the rest has to decide.
      const isRepeatable = connection.used && request.body === null && !request.isAnswered && !this.#closed;
      if (isRepeatable) this.#send(request, undefined);
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

/** One request and what has become of it. */
class Exchange implements Dispatcher.DispatchController, AnswerEvents {
  readonly head: string;
  readonly body: Buffer | null;
  connection: Connection | undefined = undefined;
  isAnswered = false;
  paused = false;
  aborted = false;
  reason: Error | null = null;
  #handler: Dispatcher.DispatchHandler | undefined;

  constructor(head: string, body: Buffer | null, handler: Dispatcher.DispatchHandler) {
    this.head = head;
    this.body = body;
    this.#handler = handler;
  }

  get isOver(): boolean {
    return this.#handler === undefined;
  }

  /** Ends it now. The other side notices by its closed connection. */
  abort(reason: Error): void {
    if (this.isOver) return;
    this.aborted = true;
    this.reason = reason;
    const { connection } = this;
    this.fail(reason);
    connection?.close();
  }

  /** What has been read already still comes. */
  pause(): void {
    this.paused = true;
  }

  resume(): void {
    if (!this.paused) return;
    this.paused = false;
    this.connection?.resume();
  }

  onHead(status: number, headers: Record<string, string>): void {
    this.isAnswered = true;
    this.#handler?.onResponseStart?.(this, status, headers);
  }

  onBody(bytes: Buffer): void {
    this.#handler?.onResponseData?.(this, bytes);
  }

  end(): void {
    this.#over()?.onResponseEnd?.(this, {});
  }

  fail(cause: Error): void {
    this.#over()?.onResponseError?.(this, cause);
  }

  #over(): Dispatcher.DispatchHandler | undefined {
    const handler = this.#handler;
    this.#handler = undefined;
    this.connection = undefined;
    return handler;
  }
}

interface ConnectionEvents {
  onFree(connection: Connection): void;
  /** `request` is the one that was cut off. Called once, and nothing after it. */
  onClosed(connection: Connection, request: Exchange | undefined, cause: Error): void;
}

class Connection {
  /** Has carried an answer before. */
  used = false;
  idleSince = 0;
  #connected = false;
  readonly #socket: Socket;
  readonly #events: ConnectionEvents;
  readonly #cancelTimeout: () => void;
  #request: Exchange | undefined = undefined;
  #parser: AnswerParser | undefined = undefined;
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
    this.#socket.once("connect", () => {
      this.#connected = true;
      this.#cancelTimeout();
    });
  }

  send(request: Exchange): void {
    this.#request = request;
    request.connection = this;
    this.#parser = new AnswerParser(request);
    afterPromises(() => this.#write(request));
  }

  #write(request: Exchange): void {
    // It may have been aborted since.
    if (this.#closed || request.isOver) return;
    const { head, body } = request;
    if (!body) {
      this.#socket.write(head, "latin1");
    } else if (head.length + body.length > ONE_PIECE_BYTES) {
      this.#socket.cork();
      this.#socket.write(head, "latin1");
      this.#socket.write(body);
      this.#socket.uncork();
    } else {
      desk.write(head, 0, "latin1");
      desk.set(body, head.length);
      this.#socket.write(desk.subarray(0, head.length + body.length));
      if (this.#socket.writableLength > 0) desk = Buffer.allocUnsafeSlow(ONE_PIECE_BYTES);
    }
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
    this.#events.onClosed(this, request, this.#connected ? cause : new NoConnectionError(cause.message, { cause }));
  }

  /** False stops the reading until `resume`. */
  #read(shared: Uint8Array, length: number): boolean {
    const parser = this.#parser;
    const request = this.#request;
    if (this.#closed || !parser || !request) {
      this.close(new Error("bytes that nobody asked for"));
      return false;
    }
    try {
      // A copy, because those who get it may keep it, and the next read writes over it.
      if (parser.push(Buffer.from(shared.subarray(0, length)))) this.#finish(parser);
      return !request.paused || request.isOver;
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
