import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { freePort } from "../load/child.ts";
import { plainProxy, startNginx } from "../load/nginx.ts";
import { findPrograms } from "../load/tools.ts";
import { json, USAGE } from "../support/fake-instance.ts";
import { doubtfulRequests, malformedRequests, RawConnection, wholeRequest } from "../support/raw-http.ts";
import { startRawRouter } from "../support/raw-router.ts";

/** The same bytes to nginx and to the router, in front of the same instance: where the two differ, the router is the stricter one. */

const { nginx } = await findPrograms(() => {}, ["nginx"]);
const PATH = "/v1/chat/completions";
const BODY = '{"messages":[{"role":"user","content":"hi"}]}';
const SMUGGLED = wholeRequest(PATH, BODY);
/** RFC 9112 allows it, and nginx refuses it. */
const LAWFUL = "chunked behind a tab";
/** Ends the connection, if the server has not lost its place in the bytes before. */
const LAST = wholeRequest(PATH, BODY, "Connection: close\r\n");

interface Front {
  url: string;
  /** Requests that its instance has got. */
  reached: () => number;
}
let ours: Front;
let theirs: Front;
const open = new AsyncDisposableStack();

beforeAll(async () => {
  if (nginx === undefined) return;
  const behindOurs = open.use(await CountingInstance.start());
  const endpoint = { uid: "u", id: "0", variant: "default", url: `http://127.0.0.1:${behindOurs.port}` };
  const router = open.use(await startRawRouter({ ...endpoint, state: "Ready", restarts: 0 }));
  ours = { url: router.url, reached: () => behindOurs.reached };
  const behindTheirs = open.use(await CountingInstance.start());
  const dir = await mkdtemp(join(tmpdir(), "llmpool-nginx-"));
  open.defer(() => rm(dir, { recursive: true }));
  const port = await freePort();
  const timeouts =
    "client_header_timeout 1s; client_body_timeout 1s; keepalive_timeout 1s; lingering_close off; proxy_read_timeout 5s;";
  const http = timeouts + plainProxy(port, behindTheirs.port);
  const child = await startNginx({ nginx, dir, name: "proxy", http, signal: new AbortController().signal });
  open.use(child);
  theirs = { url: `http://127.0.0.1:${port}`, reached: () => behindTheirs.reached };
  await child.answers(`${theirs.url}/healthz`);
});
afterAll(() => open.disposeAsync());

class CountingInstance implements AsyncDisposable {
  reached = 0;
  readonly #server = createServer((req, res) => {
    if (req.url === "/healthz") return void res.end();
    this.reached++;
    req.resume().on("end", () => json(res, 200, { choices: [], usage: USAGE }));
  });

  static async start(): Promise<CountingInstance> {
    const instance = new CountingInstance();
    await new Promise<void>((resolve) => instance.#server.listen(0, "127.0.0.1", resolve));
    return instance;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** How many of what was sent the front has served, and how many its instance has got. */
async function probe({ url, reached }: Front, bytes: string): Promise<{ served: number; reached: number }> {
  const before = reached();
  using connection = await RawConnection.open(url);
  connection.send(bytes + LAST);
  await connection.closed;
  return { served: connection.statuses.filter((status) => status < 400).length, reached: reached() - before };
}

describe.skipIf(nginx === undefined)("beside nginx (needs nginx: apt-get install nginx-light)", () => {
  const malformed = malformedRequests(PATH, "Bearer x", SMUGGLED);
  test.each([...malformed, ...doubtfulRequests(PATH, BODY, SMUGGLED)])(
    "$name: what nginx refuses is refused, and as many are served as the instance has got",
    async ({ bytes, name }) => {
      const [theirAnswer, ourAnswer] = [await probe(theirs, bytes), await probe(ours, bytes)];
      if (name !== LAWFUL) expect(ourAnswer.served).toBeLessThanOrEqual(theirAnswer.served);
      expect(ourAnswer.reached).toBe(ourAnswer.served);
    },
  );

  test("both serve what is well-formed", async () => {
    for (const url of [theirs, ours])
      expect(await probe(url, SMUGGLED + SMUGGLED)).toMatchObject({ served: 3, reached: 3 });
  });
});
