import { readFileSync } from "node:fs";
import { Agent, request } from "node:https";
import type { Certificates } from "./certificates.ts";

/** The API server, spoken to as its administrator: only what the cluster itself needs. Tests use kubectl or a client of their own. */
export interface Api {
  /** False while it does not answer. */
  isReady(): Promise<boolean>;
  exists(path: string): Promise<boolean>;
  /** Throws with the server's message when it refuses. */
  call(method: string, path: string, body?: unknown): Promise<unknown>;
}

export function connect(server: string, certificates: Certificates): Api {
  const [ca, cert, key] = ["ca.crt", "admin.crt", "admin.key"].map((name) => readFileSync(certificates.file(name)));
  // An idle connection does not hold its process open.
  const agent = new Agent({ ca, cert, key, keepAlive: true });
  const send = (method: string, path: string, body?: unknown) =>
    new Promise<{ status: number; text: string }>((resolve, reject) => {
      const type = method === "PATCH" ? "application/merge-patch+json" : "application/json";
      const sent = request(new URL(path, server), {
        method,
        agent,
        headers: { "content-type": type },
        timeout: 10_000,
      });
      sent.on("timeout", () => sent.destroy(new Error(`no answer to ${method} ${path}`)));
      sent.on("error", reject);
      sent.on("response", (response) => {
        let text = "";
        response.setEncoding("utf8").on("data", (chunk: string) => {
          text += chunk;
        });
        response.on("error", reject);
        response.on("end", () => resolve({ status: response.statusCode ?? 0, text }));
      });
      sent.end(body === undefined ? undefined : JSON.stringify(body));
    });
  return {
    async isReady() {
      return (await send("GET", "/readyz").catch(() => undefined))?.status === 200;
    },
    async exists(path) {
      return (await send("GET", path)).status === 200;
    },
    async call(method, path, body) {
      const { status, text } = await send(method, path, body);
      if (status >= 300) throw new Error(`${method} ${path}: ${status} ${text.slice(0, 1000)}`);
      return JSON.parse(text) as unknown;
    },
  };
}
