import { connect } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { List, SessionObject } from "../../src/api/http.ts";
import { eventually } from "../support/eventually.ts";
import { chunk, type FakeInstance, startStream } from "../support/fake-instance.ts";
import { RawConnection } from "../support/raw-http.ts";
import { openRig, type Rig } from "../support/router-rig.ts";

let rig: Rig;
const open: AsyncDisposable[] = [];
beforeEach(async () => {
  rig = await openRig(open, { roles: [{ name: "planner", instance: 0 }] }, 1);
});
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one[Symbol.asyncDispose]();
});
const instance = (): FakeInstance => {
  const [only] = rig.instances;
  if (!only) throw new Error("no instance");
  return only;
};

const HI = '"messages":[{"role":"user","content":"hi"}]';
const deep = (n: number) => `${"[".repeat(n)}${"]".repeat(n)}`;
const deepSchema = (n: number) => `${'{"items":'.repeat(n)}{}${"}".repeat(n)}`;
const tool = (schema: string) => `"tools":[{"type":"function","function":{"name":"f","parameters":${schema}}}]`;

describe("bodies that nobody should send", () => {
  test.each([
    ["JSON that is only depth", deep(10_000)],
    ["a message that is only depth", `{"messages":${deep(10_000)}}`],
    ["NaN", `{${HI},"temperature":NaN}`],
    ["Infinity by overflow", `{${HI},"temperature":1e999}`],
    ["a negative max_tokens", `{${HI},"max_tokens":-1}`],
    ["a max_tokens of nothing", `{${HI},"max_tokens":0}`],
    ["a fractional max_tokens", `{${HI},"max_tokens":1.5}`],
    ["a huge max_tokens", `{${HI},"max_tokens":1e300}`],
    ["max_tokens as text", `{${HI},"max_tokens":"5"}`],
    ["n = 1000", `{${HI},"n":1000}`],
    ["a negative seed of 1e300", `{${HI},"seed":-1e300}`],
    ["a million stops", `{${HI},"stop":[${Array(100_000).fill('"a"').join()}]}`],
    ["an array", "[]"],
    ["null", "null"],
    ["nothing", ""],
    ["two values", `{${HI}}{${HI}}`],
    [
      "invalid UTF-8",
      Buffer.concat([
        Buffer.from(`{"messages":[{"role":"user","content":"`),
        Buffer.from([0xc3, 0x28]),
        Buffer.from('"}]}'),
      ]),
    ],
    ["a lone high byte", Buffer.from([0x7b, 0xff, 0x7d])],
    ["a bad value that a good one of the same name precedes", `{${HI},"max_tokens":5,"max_tokens":-1}`],
  ])("%s is refused, by name and without an instance", async (_name, body) => {
    const response = await fetch(`${rig.router.url}/v1/chat/completions`, { method: "POST", body });
    expect([response.status, await response.json()]).toEqual([
      400,
      { error: expect.objectContaining({ code: expect.stringMatching(/invalid_request|context_length/) }) },
    ]);
    expect(instance().received).toEqual([]);
  });

  test("what the router reads of a name that comes twice is what the instance reads", async () => {
    const body = `{${HI},"max_tokens":-1,"max_tokens":5}`;
    const response = await fetch(`${rig.router.url}/v1/chat/completions`, { method: "POST", body });
    expect(response.status).toBe(200);
    expect(instance().received[0]?.body.max_tokens).toBe(5);
    // The prompt and 5 tokens: the reservation is made of the same number.
    expect(instance().received[0]?.headers["x-llmpool-max-total-tokens"]).toBe("9");
  });

  test.each([
    ["a field that nobody reads", `{${HI},"x":${deep(10_000)}}`],
    ["a tool's schema", `{${HI},${tool(deepSchema(5_000))}}`],
  ])("depth in %s is answered, and never by a fault of ours", async (_name, body) => {
    const response = await fetch(`${rig.router.url}/v1/chat/completions`, { method: "POST", body });
    expect([200, 400]).toContain(response.status);
    expect((await rig.chat()).status).toBe(200);
  });

  test("100 MiB are refused before they are sent, and while they are", async () => {
    const head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n";
    using announced = await RawConnection.open(rig.router.url);
    announced.send(`${head}Content-Length: ${100 * 2 ** 20}\r\n\r\n{`);
    await eventually("an answer", () => announced.statuses.length === 1);
    expect(announced.statuses).toEqual([413]);
    const { hostname, port } = new URL(rig.router.url);
    const socket = connect(Number(port), hostname);
    socket.on("error", () => {});
    const answered = new Promise<string>((resolve) => socket.once("data", (data) => resolve(data.toString("latin1"))));
    socket.write(`${head}Transfer-Encoding: chunked\r\n\r\n`);
    const mebibyte = `100000\r\n${" ".repeat(2 ** 20)}\r\n`;
    let sent = 0;
    const more = () => {
      while (sent++ < 100 && !socket.destroyed) if (!socket.write(mebibyte)) return void socket.once("drain", more);
    };
    more();
    expect(await answered).toMatch(/^HTTP\/1\.1 413 /);
    expect(sent).toBeLessThan(100);
    socket.destroy();
    expect(instance().received).toEqual([]);
  });
});

describe("ids that nobody should send", () => {
  const chat = (headers: string) =>
    `POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n${headers}Content-Length: ${HI.length + 2}\r\n\r\n{${HI}}`;

  test.each([
    ["twice", "X-Session-Id: a\r\nX-Session-Id: b\r\n"],
    ["twice, in two spellings", "X-Session-Id: a\r\nx-session-ID: a\r\n"],
    ["as a list", "X-Session-Id: a,b\r\n"],
    ["with a NUL escaped", "X-Session-Id: a%00b\r\n"],
    ["with a path", "X-Session-Id: ../a\r\n"],
    ["beyond ASCII", "X-Session-Id: \xe4\r\n"],
  ])("a session %s is refused", async (_name, headers) => {
    using connection = await RawConnection.open(rig.router.url);
    connection.send(chat(headers));
    await eventually("an answer", () => connection.statuses.length === 1);
    expect(connection.statuses).toEqual([400]);
    expect(instance().received).toEqual([]);
  });

  test("a header with _ for - is no header of ours", async () => {
    using connection = await RawConnection.open(rig.router.url);
    connection.send(chat("X_Session_Id: a\r\nX_Episode_Id: e\r\nX_LLMPool_Role: nobody\r\n"));
    await eventually("an answer", () => connection.statuses.length === 1);
    expect(connection.statuses).toEqual([200]);
    expect((await rig.get<List<SessionObject>>("/v1/sessions")).data).toEqual([]);
    expect((await rig.get<List<object>>("/v1/episodes")).data).toEqual([]);
    expect(Object.keys(instance().received[0]?.headers ?? {}).filter((name) => name.includes("_"))).toEqual([]);
  });
});

test("streams go on while others hold connections that say nothing", async () => {
  let send = (_text: string) => {};
  instance().behave = (_call, res) => {
    startStream(res);
    send = (text) => void res.write(text);
    send(chunk("one"));
  };
  const stream = await rig.chat({ stream: true });
  const reader = stream.body?.pipeThrough(new TextDecoderStream()).getReader();
  const slow = await Promise.all(Array.from({ length: 100 }, () => RawConnection.open(rig.router.url)));
  for (const [i, connection] of slow.entries()) {
    connection.send("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Slow: ");
    connection.send(i % 2 === 0 ? "a" : `b\r\nContent-Length: 500\r\n\r\n{`);
  }
  expect((await reader?.read())?.value).toContain("one");
  for (const word of ["two", "three", "four"]) {
    send(chunk(word));
    expect((await reader?.read())?.value).toContain(word);
  }
  expect((await fetch(`${rig.router.url}/healthz`)).status).toBe(200);
  await reader?.cancel();
  for (const connection of slow) connection[Symbol.dispose]();
});
