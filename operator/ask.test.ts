import { once } from "node:events";
import { createServer, type RequestListener, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { askOverHttp } from "./ask.ts";

/** A pod that answers as it likes. */
async function pod(answer: RequestListener): Promise<string> {
  const server = createServer(answer).listen(0, "127.0.0.1");
  onTestFinished(async () => {
    server.closeAllConnections();
    await new Promise((done) => server.close(done));
  });
  await once(server, "listening");
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/readyz`;
}

const ask = (url: string) => askOverHttp(url, new AbortController().signal);

/** JSON of so many bytes. */
const told = (bytes: number) =>
  JSON.stringify({ state: "Ready", message: "" }).replace('""', `"${"x".repeat(bytes - 30)}"`);

test("what an instance says is read, also when it is not ready", async () => {
  expect(await ask(await pod((_, answer) => answer.writeHead(503).end('{"state":"Loading"}')))).toEqual({
    state: "Loading",
  });
  expect(await ask(await pod((_, answer) => answer.end(told(64 * 1024))))).toMatchObject({ state: "Ready" });
});

test("an answer that is longer than any instance's is none, and is not read to its end", async () => {
  expect(await ask(await pod((_, answer) => answer.end(told(64 * 1024 + 1))))).toBeUndefined();
  const answering = Promise.withResolvers<ServerResponse>();
  const url = await pod((_, answer) => {
    answer.write("x".repeat(64 * 1024 + 1));
    answering.resolve(answer);
  });
  expect(await ask(url)).toBeUndefined();
  const answer = await answering.promise;
  if (!answer.closed) await once(answer, "close");
  expect(answer.writableEnded).toBe(false);
});

test("an instance sends the operator nowhere else", async () => {
  let asked = 0;
  const elsewhere = await pod((_, answer) => {
    asked++;
    answer.end('{"state":"Ready"}');
  });
  expect(await ask(await pod((_, answer) => answer.writeHead(302, { location: elsewhere }).end()))).toBeUndefined();
  expect(asked).toBe(0);
});

test("who is not there says nothing", async () => {
  expect(await ask("http://127.0.0.1:1/readyz")).toBeUndefined();
});
