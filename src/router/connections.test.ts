import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { type Dispatcher, Pool } from "undici";
import { describe, expect, onTestFinished, test } from "vitest";
import { eventually } from "../../test/support/eventually.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { Connections } from "./connections.ts";

interface Answered {
  status: number;
  type: string;
  body: string;
  error: string;
}

type Answering = (request: IncomingMessage, response: ServerResponse, body: string) => void;
type Make = (url: string, clock: FakeClock) => Dispatcher;
const ours: Make = (url, clock) => new Connections(url, clock);
const undicis: Make = (url) => new Pool(url, { pipelining: 1, headersTimeout: 0, bodyTimeout: 0 });

/** An instance that answers with `answer`, and a dispatcher for it. */
async function setUp(make: Make, answer: Answering) {
  const sockets = new Set<Socket>();
  let connected = 0;
  const server = createServer({ keepAliveTimeout: 0 }, async (request, response) => {
    let body = "";
    for await (const piece of request) body += String(piece);
    answer(request, response, body);
  });
  server.on("connection", (socket) => {
    connected++;
    sockets.add(socket.on("close", () => sockets.delete(socket)));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const clock = new FakeClock();
  const dispatcher = make(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, clock);
  onTestFinished(async () => {
    await dispatcher.destroy();
    server.closeAllConnections();
    server.close();
  });
  return { dispatcher, clock, sockets, connected: () => connected };
}

/** Sends one body and waits for what comes of it; `onStart` gets hold of the request while it runs. */
function post(
  dispatcher: Dispatcher,
  body: string | Buffer,
  onStart?: (running: Dispatcher.DispatchController) => void,
) {
  return new Promise<Answered>((resolve) => {
    const seen: Answered = { status: 0, type: "", body: "", error: "" };
    dispatcher.dispatch(
      { method: "POST", path: "/v1", headers: ["x-a", "b"], body: Buffer.from(body as string) },
      {
        onRequestStart: (controller) => onStart?.(controller),
        onResponseStart: (_, status, headers) => {
          Object.assign(seen, { status, type: headers["content-type"] ?? "" });
        },
        onResponseData: (_, bytes) => {
          seen.body += bytes.toString();
        },
        onResponseEnd: () => resolve(seen),
        onResponseError: (_, { message }) => resolve({ ...seen, error: message }),
      },
    );
  });
}

describe.each([
  ["ours", ours],
  ["undici's Pool", undicis],
])("as any dispatcher: %s", (_, make) => {
  test("each request gets its own answer, one after another and at once", async () => {
    const { dispatcher } = await setUp(make, (request, response, body) => {
      response.setHeader("content-type", "text/x");
      response.end(`${request.method} ${request.url} ${request.headers["x-a"]} ${body}`);
    });
    expect(await post(dispatcher, "1")).toEqual({ status: 200, type: "text/x", body: "POST /v1 b 1", error: "" });
    expect((await post(dispatcher, "2")).body).toBe("POST /v1 b 2");
    const bodies = await Promise.all(["3", "4", "5"].map(async (body) => (await post(dispatcher, body)).body));
    expect(bodies).toEqual(["POST /v1 b 3", "POST /v1 b 4", "POST /v1 b 5"]);
  });

  test("undici's own calls work over it", async () => {
    const { dispatcher } = await setUp(make, (request, response) => {
      response.statusCode = request.method === "DELETE" ? 204 : 200;
      response.end(request.method === "DELETE" ? undefined : JSON.stringify({ url: request.url }));
    });
    const got = await dispatcher.request({ method: "GET", path: "/x?y=1", headers: ["x-a", "b"] });
    expect([got.statusCode, await got.body.json()]).toEqual([200, { url: "/x?y=1" }]);
    const deleted = await dispatcher.request({ method: "DELETE", path: "/x" });
    await deleted.body.dump();
    expect(deleted.statusCode).toBe(204);
  });

  test("bodies of any size arrive whole", async () => {
    const { dispatcher } = await setUp(make, (_request, response, body) => response.end(String(body.length)));
    for (const size of [0, 1, 16 * 1024, 16 * 1024 + 1, 3_000_000]) {
      expect((await post(dispatcher, Buffer.alloc(size, "x"))).body).toBe(String(size));
    }
  });

  test("a stream arrives in the order it was sent, whatever its pieces", async () => {
    const { dispatcher } = await setUp(make, (_request, response) => {
      let sent = 0;
      const more = () => {
        response.write(`${sent++},`.repeat(sent));
        if (sent < 200) setImmediate(more);
        else response.end();
      };
      more();
    });
    const want = Array.from({ length: 200 }, (_unused, i) => `${i},`.repeat(i + 1)).join("");
    expect((await post(dispatcher, "")).body).toBe(want);
  });

  test("an answer that breaks off is an error, and is not asked for again", async () => {
    let served = 0;
    const { dispatcher } = await setUp(make, (request, response) => {
      served++;
      if (served === 1) return void response.end("ok");
      response.write("half");
      setImmediate(() => request.socket.destroy());
    });
    await post(dispatcher, "1");
    expect(await post(dispatcher, "2")).toMatchObject({ status: 200, body: "half", error: expect.stringMatching(/./) });
    expect(served).toBe(2);
  });

  test("an answer that is no HTTP is an error, and so is an instance that is not there", async () => {
    const { dispatcher, sockets } = await setUp(make, (request) => request.socket.write("hello\r\n\r\n"));
    expect((await post(dispatcher, "1")).error).not.toBe("");
    await eventually("the connection is closed", () => sockets.size === 0);
    const nobody = make("http://127.0.0.1:1", new FakeClock());
    expect((await post(nobody, "1")).error).toContain("ECONNREFUSED");
    await nobody.destroy();
  });

  test("an abort closes the connection, tells the reason, and sends nothing again", async () => {
    let served = 0;
    const { dispatcher, sockets } = await setUp(make, (_request, response) => {
      if (++served === 1) response.end("ok");
    });
    await post(dispatcher, "1");
    let running: Dispatcher.DispatchController | undefined;
    const answer = post(dispatcher, "2", (controller) => {
      running = controller;
    });
    await eventually("the request is there", () => served === 2);
    running?.abort(new Error("no more"));
    expect((await answer).error).toBe("no more");
    expect(running?.aborted).toBe(true);
    await eventually("the connection is closed", () => sockets.size === 0);
    expect(served).toBe(2);
  });

  test("an abort at the start sends nothing", async () => {
    let served = 0;
    const { dispatcher } = await setUp(make, (_request, response) => {
      served++;
      response.end("ok");
    });
    await post(dispatcher, "1");
    const { error } = await post(dispatcher, "2", (controller) => controller.abort(new Error("too late")));
    expect([error, served]).toEqual(["too late", 1]);
  });

  test("a handler that does not keep up gets no more than was read already, until it does", async () => {
    const { dispatcher } = await setUp(make, (_request, response, body) => {
      response.end(body === "big" ? Buffer.alloc(1_000_000, "x") : "small");
    });
    let received = 0;
    let running: Dispatcher.DispatchController | undefined;
    const ended = new Promise<void>((resolve, reject) => {
      dispatcher.dispatch(
        { method: "POST", path: "/", headers: [], body: Buffer.from("big") },
        {
          onRequestStart: (controller) => {
            running = controller;
          },
          onResponseStart: () => {},
          onResponseData: (controller, bytes) => {
            received += bytes.length;
            controller.pause();
          },
          onResponseEnd: () => resolve(),
          onResponseError: (_controller, error) => reject(error),
        },
      );
    });
    await eventually("the first bytes", () => received > 0);
    // Whole exchanges on another connection: time enough for bytes that should not come.
    for (let i = 0; i < 5; i++) {
      const before = received;
      await post(dispatcher, "small");
      expect(received).toBe(before);
      expect(received).toBeLessThan(1_000_000);
      running?.resume();
      await eventually("more bytes", () => received > before);
    }
    const pump = setInterval(() => running?.resume(), 1);
    await ended.finally(() => clearInterval(pump));
    expect(received).toBe(1_000_000);
  });

  test("destroying ends what runs with an error, and so whatever comes later", async () => {
    const { dispatcher, sockets } = await setUp(make, () => {});
    const running = post(dispatcher, "1");
    await eventually("connected", () => sockets.size === 1);
    await dispatcher.destroy();
    expect((await running).error).not.toBe("");
    expect((await post(dispatcher, "2")).error).not.toBe("");
  });

  test("what cannot stand in a header is refused", async () => {
    const { dispatcher } = await setUp(make, (_request, response) => response.end("ok"));
    const send = () =>
      dispatcher
        .request({ method: "GET", path: "/", headers: ["x-a", "b\r\nx-evil: 1"] })
        .then((answer) => answer.body.text());
    await expect((async () => send())()).rejects.toThrow(/x-a|header/);
  });
});

test("requests one after another share a connection, requests at once have their own", async () => {
  const { dispatcher, connected } = await setUp(ours, (_request, response) => response.end());
  await post(dispatcher, "1");
  await post(dispatcher, "2");
  expect(connected()).toBe(1);
  await Promise.all(["3", "4", "5"].map((body) => post(dispatcher, body)));
  expect(connected()).toBe(3);
});

test("where the other side closes a connection as it is used again, a question is asked over another, and nothing else is sent twice", async () => {
  let served = 0;
  const { dispatcher } = await setUp(ours, (request, response) => {
    if (++served % 2 === 0) request.socket.destroy();
    else response.end("ok");
  });
  expect((await post(dispatcher, "1")).body).toBe("ok");
  const again = await dispatcher.request({ method: "GET", path: "/", origin: "" });
  expect([await again.body.text(), served]).toEqual(["ok", 3]);
  expect(await post(dispatcher, "2")).toMatchObject({ status: 0, error: expect.stringMatching(/./) });
  expect(served).toBe(4);
});

test("a new connection that closes without an answer is an error", async () => {
  let served = 0;
  const { dispatcher } = await setUp(ours, (request) => {
    served++;
    request.socket.destroy();
  });
  expect(await post(dispatcher, "1")).toMatchObject({ status: 0, error: expect.stringMatching(/./) });
  expect(served).toBe(1);
});

test("a connection that is not needed is closed after a while, one in use is not", async () => {
  const { dispatcher, clock, sockets } = await setUp(ours, (_request, response, body) => {
    if (body !== "hang") response.end();
  });
  await Promise.all([post(dispatcher, "1"), post(dispatcher, "2")]);
  const hanging = post(dispatcher, "hang");
  await eventually("both are used", () => sockets.size === 2);
  clock.advance(30_000);
  clock.advance(30_000);
  await eventually("the idle one is closed", () => sockets.size === 1);
  clock.advance(300_000);
  await dispatcher.destroy();
  expect((await hanging).error).toBe("the instance is gone");
});
