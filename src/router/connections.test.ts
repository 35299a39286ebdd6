import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { eventually } from "../../test/support/eventually.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { Connections, type Exchange } from "./connections.ts";

interface Answered {
  status: number;
  body: string;
  error: string;
}

/** An instance that answers with `answer`, and connections to it. */
async function setUp(answer: (request: IncomingMessage, response: ServerResponse, body: string) => void) {
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
  const connections = new Connections(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, clock);
  onTestFinished(() => {
    connections.close();
    server.closeAllConnections();
    server.close();
  });
  return { connections, clock, sockets, connected: () => connected };
}

/** Sends one body and waits for what comes of it; `onExchange` gets hold of the request while it runs. */
function post(connections: Connections, body: string | Buffer, onExchange: (exchange: Exchange) => void = () => {}) {
  return new Promise<Answered>((resolve) => {
    const seen: Answered = { status: 0, body: "", error: "" };
    const exchange = connections.post("/v1", ["x-a", "b"], Buffer.from(body), {
      onHead: (status) => {
        seen.status = status;
      },
      onBody: (bytes) => {
        seen.body += bytes.toString();
        return true;
      },
      onEnd: () => resolve(seen),
      onError: ({ message }) => resolve({ ...seen, error: message }),
    });
    onExchange(exchange);
  });
}

test("requests one after another share a connection, requests at once have their own", async () => {
  const { connections, connected } = await setUp((request, response, body) => {
    response.end(`${request.method} ${request.url} ${request.headers["x-a"]} ${body}`);
  });
  expect(await post(connections, "1")).toEqual({ status: 200, body: "POST /v1 b 1", error: "" });
  expect((await post(connections, "2")).body).toBe("POST /v1 b 2");
  expect(connected()).toBe(1);
  const bodies = await Promise.all(["3", "4", "5"].map(async (body) => (await post(connections, body)).body));
  expect(bodies).toEqual(["POST /v1 b 3", "POST /v1 b 4", "POST /v1 b 5"]);
  expect(connected()).toBe(3);
});

test("bodies of any size arrive whole", async () => {
  const { connections } = await setUp((_, response, body) => response.end(String(body.length)));
  for (const size of [0, 1, 16 * 1024, 16 * 1024 + 1, 3_000_000]) {
    expect((await post(connections, Buffer.alloc(size, "x"))).body).toBe(String(size));
  }
});

test("a stream arrives in the order it was sent, whatever its pieces", async () => {
  const { connections } = await setUp((_, response) => {
    let sent = 0;
    const more = () => {
      response.write(`${sent++},`.repeat(sent));
      if (sent < 200) setImmediate(more);
      else response.end();
    };
    more();
  });
  const want = Array.from({ length: 200 }, (_, i) => `${i},`.repeat(i + 1)).join("");
  expect((await post(connections, "")).body).toBe(want);
});

test("a connection that the other side closes as it is used again costs nothing: the request goes over another", async () => {
  let served = 0;
  const { connections, connected } = await setUp((request, response) => {
    if (++served === 2) request.socket.destroy();
    else response.end("ok");
  });
  expect((await post(connections, "1")).body).toBe("ok");
  expect(await post(connections, "2")).toEqual({ status: 200, body: "ok", error: "" });
  expect([served, connected()]).toEqual([3, 2]);
});

test("a new connection that closes without an answer is an error, as is one that nobody accepts", async () => {
  const { connections } = await setUp((request) => request.socket.destroy());
  expect(await post(connections, "1")).toEqual({ status: 0, body: "", error: expect.any(String) });
  const nobody = new Connections("http://127.0.0.1:1", new FakeClock());
  expect((await post(nobody, "1")).error).toContain("ECONNREFUSED");
});

test("an answer that breaks off is an error, and is not asked for again", async () => {
  let served = 0;
  const { connections } = await setUp((request, response) => {
    served++;
    if (served === 1) return void response.end("ok");
    response.write("half");
    setImmediate(() => request.socket.destroy());
  });
  await post(connections, "1");
  expect(await post(connections, "2")).toMatchObject({ status: 200, body: "half", error: expect.stringMatching(/./) });
  expect(served).toBe(2);
});

test("an answer that is no HTTP is an error", async () => {
  const { connections, sockets } = await setUp((request) => request.socket.write("hello\r\n\r\n"));
  expect((await post(connections, "1")).error).toContain("HTTP/1.1");
  await eventually("the connection is closed", () => sockets.size === 0);
});

test("an abort closes the connection, says nothing more, and sends nothing again", async () => {
  let served = 0;
  const { connections, sockets } = await setUp((_, response) => {
    if (++served === 1) response.end("ok");
  });
  await post(connections, "1");
  let exchange: Exchange | undefined;
  let heard = false;
  void post(connections, "2", (running) => {
    exchange = running;
  }).then(() => {
    heard = true;
  });
  await eventually("the request is there", () => served === 2);
  exchange?.abort();
  await eventually("the connection is closed", () => sockets.size === 0);
  expect([heard, served]).toEqual([false, 2]);
});

test("a handler that does not keep up gets nothing until it does", async () => {
  const { connections } = await setUp((_, response, body) => {
    response.end(body === "big" ? Buffer.alloc(1_000_000, "x") : "small");
  });
  let received = 0;
  let pieces = 0;
  let isSlow = true;
  let exchange: Exchange | undefined;
  const ended = new Promise<void>((resolve, reject) => {
    exchange = connections.post("/", [], Buffer.from("big"), {
      onHead: () => {},
      onBody: (bytes) => {
        received += bytes.length;
        pieces++;
        return !isSlow;
      },
      onEnd: resolve,
      onError: reject,
    });
  });
  for (let piece = 1; piece <= 5; piece++) {
    await eventually("the next piece", () => pieces === piece);
    // A whole exchange on another connection: time enough for a piece that should not come.
    await post(connections, "small");
    expect(pieces).toBe(piece);
    isSlow = piece < 5;
    exchange?.resume();
  }
  await ended;
  expect(received).toBe(1_000_000);
});

test("closing ends what runs with an error, and so whatever comes later", async () => {
  const { connections, sockets } = await setUp(() => {});
  const running = post(connections, "1");
  await eventually("connected", () => sockets.size === 1);
  connections.close();
  expect((await running).error).toBe("the instance is gone");
  expect((await post(connections, "2")).error).toBe("the instance is gone");
});

test("a connection that is not needed is closed after a while, one in use is not", async () => {
  const { connections, clock, sockets } = await setUp((_, response, body) => {
    if (body !== "hang") response.end();
  });
  await Promise.all([post(connections, "1"), post(connections, "2")]);
  const hanging = post(connections, "hang");
  await eventually("both are used", () => sockets.size === 2);
  clock.advance(30_000);
  clock.advance(30_000);
  await eventually("the idle one is closed", () => sockets.size === 1);
  clock.advance(300_000);
  connections.close();
  expect((await hanging).error).toBe("the instance is gone");
});
