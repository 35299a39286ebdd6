import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

/** Between a client and a server on loopback: a network that can be cut, silently or not. */
export class TcpProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #pairs = new Set<[Socket, Socket]>();
  readonly #stalled = new Set<[Socket, Socket]>();
  #silent = false;
  /** Connections accepted so far. */
  connections = 0;

  private constructor(targetPort: number, targetHost: string) {
    this.#server = createServer((client) => {
      this.connections++;
      const upstream = connect(targetPort, targetHost);
      const pair: [Socket, Socket] = [client, upstream];
      this.#pairs.add(pair);
      for (const [from, to] of [
        [client, upstream],
        [upstream, client],
      ] as const) {
        from.on("data", (bytes) => {
          if (!this.#silent && !this.#stalled.has(pair)) to.write(bytes);
        });
        from.on("error", () => {});
        from.on("close", () => {
          to.destroy();
          this.#pairs.delete(pair);
          this.#stalled.delete(pair);
        });
      }
    });
  }

  static async start(targetPort: number, targetHost = "127.0.0.1"): Promise<TcpProxy> {
    const proxy = new TcpProxy(targetPort, targetHost);
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** From now on nothing passes, and nobody is told; bytes on the way are lost. */
  partition(): void {
    this.#silent = true;
  }

  /** The connections there are stay open, and nothing passes on them any more; new ones pass. */
  stall(): void {
    for (const pair of this.#pairs) this.#stalled.add(pair);
  }

  /** New connections pass; the old ones, which have lost bytes, are cut. */
  heal(): void {
    this.cut();
    this.#silent = false;
  }

  /** Breaks every connection. */
  cut(): void {
    for (const pair of this.#pairs) for (const socket of pair) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    this.#server.close();
    await once(this.#server, "close");
  }
}
