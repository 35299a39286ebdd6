// The least a proxy in Node does: reads and parses the body, passes it on, passes the answer back. node bare-proxy-main.ts PORT UPSTREAM
import { createServer, type ServerResponse } from "node:http";
import { type Dispatcher, Pool } from "undici";

const [port = "0", upstream = ""] = process.argv.slice(2);
const pool = new Pool(upstream, { pipelining: 1, keepAliveTimeout: 30_000 });

class Pipe implements Dispatcher.DispatchHandler {
  readonly #response: ServerResponse;

  constructor(response: ServerResponse) {
    this.#response = response;
  }
  onRequestStart(): void {}
  onResponseStart(_: unknown, status: number, headers: Record<string, string | string[] | undefined>): void {
    const { "content-type": type, "content-length": length } = headers;
    this.#response.writeHead(status, {
      "content-type": String(type ?? "application/json"),
      // Known for an answer in one piece; a stream goes on in chunks.
      ...(length !== undefined && { "content-length": String(length) }),
    });
  }
  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#response.write(chunk)) return;
    controller.pause();
    this.#response.once("drain", () => controller.resume());
  }
  onResponseEnd(): void {
    this.#response.end();
  }
  onResponseError(): void {
    this.#response.destroy();
  }
}

createServer({ keepAliveTimeout: 75_000 }, (request, response) => {
  const chunks: Buffer[] = [];
  request.on("data", (chunk: Buffer) => chunks.push(chunk));
  request.on("end", () => {
    const body = chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks);
    if (body.length > 0) JSON.parse(body.toString());
    pool.dispatch(
      {
        method: request.method as Dispatcher.HttpMethod,
        path: request.url ?? "/",
        headers: ["content-type", "application/json"],
        body,
      },
      new Pipe(response),
    );
  });
}).listen(Number(port), "127.0.0.1");
