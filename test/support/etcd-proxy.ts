import { once } from "node:events";
import {
  type ClientHttp2Session,
  connect,
  constants,
  createServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import type { AddressInfo } from "node:net";
import { Transform } from "node:stream";

/** The one call by which an API server learns what changed: all its watches are in a few streams of it. */
const WATCH = "/etcdserverpb.Watch/Watch";

/**
 * Stands between one API server and its etcd, on loopback and without TLS. What the server asks and writes passes at any time; what etcd tells it
 * of changes can be held back, so that it goes on with caches of the past.
 */
export class EtcdProxy implements AsyncDisposable {
  readonly #etcd: string;
  readonly #server: Http2Server;
  /** From each connection of the API server to the one that was made for it. */
  readonly #connections = new Map<ServerHttp2Session, ClientHttp2Session>();
  readonly #watches = new Set<Gate>();
  #holds = false;
  #port = 0;

  private constructor(etcd: string) {
    this.#etcd = etcd;
    this.#server = createServer();
    this.#server.on("session", (session) => this.#accept(session));
    this.#server.on("stream", (stream, headers) => this.#pass(stream, headers));
  }

  /** @param etcd its URL */
  static async start(etcd: string): Promise<EtcdProxy> {
    const proxy = new EtcdProxy(etcd);
    await proxy.#listen(0);
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** From now on etcd tells of no change, and nobody is told. What it tells meanwhile is kept. */
  holdWatches(): void {
    this.#holds = true;
    for (const watch of this.#watches) watch.hold();
  }

  /** What was kept is told, in order, and watches are watches again. */
  releaseWatches(): void {
    this.#holds = false;
    for (const watch of this.#watches) watch.release();
  }

  /** Nobody listens any more, and all connections are reset. Returns what takes it back. */
  async cutOff(): Promise<() => Promise<void>> {
    const closed = once(this.#server, "close");
    this.#server.close();
    for (const session of this.#connections.keys()) session.destroy();
    await closed;
    return () => this.#listen(this.#port);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#server.listening) await this.cutOff();
  }

  async #listen(port: number): Promise<void> {
    this.#server.listen(port, "127.0.0.1");
    await once(this.#server, "listening");
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  #accept(session: ServerHttp2Session): void {
    const etcd = connect(this.#etcd);
    this.#connections.set(session, etcd);
    for (const one of [session, etcd]) one.on("error", () => {});
    etcd.on("close", () => session.destroy());
    session.on("close", () => {
      this.#connections.delete(session);
      etcd.destroy();
    });
  }

  #pass(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void {
    const etcd = this.#connections.get(stream.session as ServerHttp2Session);
    if (!etcd || etcd.destroyed) {
      stream.close(constants.NGHTTP2_REFUSED_STREAM);
      return;
    }
    const call = etcd.request(headers);
    let trailers: IncomingHttpHeaders = {};
    for (const one of [stream, call]) one.on("error", () => {});
    stream.on("close", () => call.close(constants.NGHTTP2_CANCEL));
    call.on("close", () => {
      if (call.rstCode !== constants.NGHTTP2_NO_ERROR) stream.close(call.rstCode);
    });
    stream.pipe(call);
    stream.on("wantTrailers", () => stream.sendTrailers(trailers));
    call.on("trailers", (sent) => {
      trailers = sent;
    });
    call.on("response", (answer, flags) => {
      const isWhole = (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0;
      stream.respond(answer, isWhole ? { endStream: true } : { waitForTrailers: true });
      if (isWhole) return;
      if (headers[":path"] === WATCH) call.pipe(this.#gate(stream)).pipe(stream);
      else call.pipe(stream);
    });
  }

  #gate(stream: ServerHttp2Stream): Gate {
    const gate = new Gate();
    if (this.#holds) gate.hold();
    this.#watches.add(gate);
    stream.on("close", () => this.#watches.delete(gate));
    return gate;
  }
}

/** Lets bytes through, or keeps them without end: not to read them would hold up the other calls of their connection. */
class Gate extends Transform {
  #holds = false;
  #next: (() => void) | undefined;

  constructor() {
    super({ writableHighWaterMark: Number.MAX_SAFE_INTEGER });
  }

  hold(): void {
    this.#holds = true;
  }

  release(): void {
    this.#holds = false;
    this.#next?.();
    this.#next = undefined;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: (error: null, chunk: Buffer) => void): void {
    const pass = () => done(null, chunk);
    if (this.#holds) this.#next = pass;
    else pass();
  }
}
