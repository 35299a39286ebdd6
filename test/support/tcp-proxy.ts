import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

/** Between a client and a server on loopback: a network that can be cut, silently or not. */
export class TcpProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #pairs = new Set<[Socket, Socket]>();
  readonly #stalled = new Set<[Socket, Socket]>();
  #silent = false;
  #deaf = false;
  /** What clients have said on connections that are held, in order. */
  readonly #held = new Map<[Socket, Socket], Buffer[]>();
  /** Connections accepted so far. */
  connections = 0;

  /** Where new connections lead. */
  targetPort: number;
  /** Told what clients say, before anybody else hears of it. */
  onSaid: (bytes: Buffer) => void = () => {};

  private constructor(targetPort: number, targetHost: string) {
    this.targetPort = targetPort;
    this.#server = createServer((client) => {
      this.connections++;
      const upstream = connect(this.targetPort, targetHost);
      const pair: [Socket, Socket] = [client, upstream];
      this.#pairs.add(pair);
      for (const [from, to] of [
        [client, upstream],
        [upstream, client],
      ] as const) {
        from.on("data", (bytes) => {
          if (from === client) this.onSaid(bytes);
          const held = from === client ? this.#held.get(pair) : undefined;
          if (held) held.push(bytes);
          else if (this.#deaf && from === upstream) return;
          else if (!this.#silent && !this.#stalled.has(pair)) to.write(bytes);
        });
        from.on("error", () => {});
        from.on("close", () => {
          if (from === client && this.#held.has(pair)) return;
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

  /** From now on what clients say arrives, and no answer does. */
  loseAnswers(): void {
    this.#deaf = true;
  }

  /** What clients say on the connections there are is kept back, and so is that they close them; new connections pass. */
  hold(): void {
    for (const pair of this.#pairs) this.#held.set(pair, []);
  }

  /** What was kept back arrives, late; resolves when the server has taken all of it. */
  async deliver(): Promise<void> {
    const held = [...this.#held];
    this.#held.clear();
    await Promise.all(
      held.map(async ([[client, upstream], said]) => {
        for (const bytes of said) upstream.write(bytes);
        if (!client.destroyed || upstream.destroyed) return;
        const closed = once(upstream, "close");
        upstream.end();
        await closed;
      }),
    );
  }

  /** New connections pass; the old ones, which have lost bytes, are cut. */
  heal(): void {
    this.cut();
    this.#silent = false;
    this.#deaf = false;
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
