import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Metrics } from "../src/lib/metrics.ts";

/** `/healthz`, `/readyz` (once the caches are complete) and `/metrics` of the operator. */
export class HealthServer implements AsyncDisposable {
  readonly #server: Server;
  #ready = false;

  private constructor(metrics: Metrics) {
    this.#server = createServer((request, response) => {
      const answer = (status: number, text: string, type = "text/plain; charset=utf-8") =>
        response.writeHead(status, { "content-type": type }).end(text);
      if (request.method !== "GET") answer(405, "only GET\n");
      else if (request.url === "/healthz") answer(200, "ok\n");
      else if (request.url === "/readyz")
        answer(this.#ready ? 200 : 503, this.#ready ? "ok\n" : "caches are not complete\n");
      else if (request.url === "/metrics")
        metrics.expose().then(
          (text) => answer(200, text, metrics.contentType),
          () => answer(500, "metrics cannot be read\n"),
        );
      else answer(404, "there are /healthz, /readyz and /metrics\n");
    });
  }

  /** Port 0 lets the operating system choose. Rejects when the port is taken. */
  static async listen(metrics: Metrics, host: string, port: number): Promise<HealthServer> {
    const health = new HealthServer(metrics);
    await new Promise<void>((resolve, reject) => {
      health.#server.once("error", reject);
      health.#server.listen(port, host, resolve);
    });
    return health;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  setReady(): void {
    this.#ready = true;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    if (this.#server.listening) await new Promise((done) => this.#server.close(done));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
