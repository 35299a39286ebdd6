import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Metrics } from "../../src/lib/metrics.ts";

/** `GET /metrics` on a port of its own, without a token: no label says anything about a prompt or a session. */
export class MetricsServer implements AsyncDisposable {
  readonly #http: Server;

  constructor(metrics: Metrics) {
    this.#http = createServer(
      { maxHeaderSize: 16 * 1024, headersTimeout: 10_000, requestTimeout: 10_000 },
      (request, response) => {
        request.resume();
        if (request.url?.split("?", 1)[0] !== "/metrics") return response.writeHead(404).end();
        if (request.method !== "GET") return response.writeHead(405, { allow: "GET" }).end();
        metrics.expose().then(
          (text) => response.writeHead(200, { "content-type": metrics.contentType }).end(text),
          () => response.writeHead(500).end(),
        );
      },
    );
    this.#http.maxConnections = 64;
  }

  /** Resolves with the port. */
  listen(host: string, port: number): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#http.once("error", reject);
      this.#http.listen(port, host, () => {
        this.#http.off("error", reject);
        resolve((this.#http.address() as AddressInfo).port);
      });
    });
  }

  close(): Promise<void> {
    return new Promise((resolve) => {
      this.#http.close(() => resolve());
      this.#http.closeAllConnections();
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
