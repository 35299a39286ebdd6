import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { GenerateEvent, GenerateRequest, LLMBackend, Usage } from "../../src/api/backend.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { createBackend } from "./backend.ts";

let stateDir: string;
let clock: FakeClock;
beforeEach(() => {
  stateDir = mkdtempSync(join(tmpdir(), "stub-test-"));
  clock = new FakeClock();
});
afterEach(() => rmSync(stateDir, { recursive: true, force: true }));

interface Options {
  contextTokens?: number;
  sessions?: number;
  ttftMs?: number;
  interTokenMs?: number;
  replyTokens?: number;
  errorRate?: number;
}
const make = ({ contextTokens = 256, sessions = 2, ...stub }: Options = {}): Promise<LLMBackend> =>
  createBackend(
    {
      contextTokens,
      sessions,
      sessionTTLSeconds: 60,
      stateDir,
      stub: { ttftMs: 0, interTokenMs: 0, replyTokens: 8, errorRate: 0, ...stub },
    },
    { clock },
  );

let ids = 0;
function ask(text: string, more: Partial<GenerateRequest> = {}): GenerateRequest {
  ids += 1;
  return {
    requestId: `r${ids}`,
    prompt: { kind: "chat", messages: [{ role: "user", content: text }] },
    timeoutMs: 60_000,
    stop: [],
    sampling: { temperature: 0, topP: 1 },
    responseFormat: { type: "text" },
    ...more,
  };
}

interface Answer {
  text: string;
  tokens: number;
  events: GenerateEvent[];
  finishReason: string;
  usage: Usage;
}
async function run(
  backend: LLMBackend,
  request: GenerateRequest,
  signal = new AbortController().signal,
): Promise<Answer> {
  const events: GenerateEvent[] = [];
  let text = "";
  let tokens = 0;
  for await (const event of backend.generate(request, { signal })) {
    events.push(event);
    if (event.type === "text") text += event.text;
    if (event.type === "text" || event.type === "tool_call") tokens += event.tokens;
  }
  const done = events.at(-1);
  if (done?.type !== "done") throw new Error("no done event");
  return { text, tokens, events, finishReason: done.finishReason, usage: done.usage };
}

test("a keyword's reply, filled up to replyTokens, with exact usage", async () => {
  const answer = await run(await make(), ask("say hello, please"));
  expect(answer.text).toBe("Hello from the stub. alpha bravo charlie");
  expect(answer.usage).toEqual({ promptTokens: 7, completionTokens: 8, cachedTokens: 0 });
  expect(answer).toMatchObject({ tokens: 8, finishReason: "stop" });
});

test("max tokens, the context and the reservation each cut the answer", async () => {
  const backend = await make({ replyTokens: 50 });
  expect(await run(backend, ask("hello", { maxTokens: 3 }))).toMatchObject({
    text: "Hello from the",
    finishReason: "length",
  });
  expect((await run(backend, ask("hello", { maxTotalTokens: 6 }))).usage).toMatchObject({
    promptTokens: 4,
    completionTokens: 2,
  });
  const small = await make({ replyTokens: 50, contextTokens: 9 });
  expect(await run(small, ask("hello"))).toMatchObject({ tokens: 5, finishReason: "length" });
  expect(await run(await make({ replyTokens: 5 }), ask("hello", { maxTokens: 5 }))).toMatchObject({
    finishReason: "stop",
  });
});

test("refuses a prompt that leaves no room, before it yields anything", async () => {
  await expect(run(await make({ contextTokens: 4 }), ask("hello"))).rejects.toMatchObject({
    code: "context_length_exceeded",
    param: "messages",
  });
  await expect(run(await make(), ask("hello", { maxTotalTokens: 4 }))).rejects.toMatchObject({
    code: "budget_exhausted",
  });
});

test("a second turn evaluates only its new tokens", async () => {
  const backend = await make();
  const first = await run(backend, ask("hello", { sessionId: "s" }));
  const second = await run(backend, {
    ...ask("", { sessionId: "s" }),
    prompt: {
      kind: "chat",
      messages: [
        { role: "user", content: "hello" },
        { role: "assistant", content: first.text },
        { role: "user", content: "again" },
      ],
    },
  });
  // <|user|> hello <|end|> <|assistant|> and eight answered tokens.
  expect(second.usage).toEqual({ promptTokens: 4 + 8 + 1 + 4, completionTokens: 8, cachedTokens: 12 });
});

test("the whole prompt again is cached but for its last token; another session and a one-off share nothing", async () => {
  const backend = await make();
  await run(backend, ask("hello", { sessionId: "a" }));
  expect((await run(backend, ask("hello", { sessionId: "a" }))).usage.cachedTokens).toBe(3);
  expect((await run(backend, ask("hello", { sessionId: "b" }))).usage.cachedTokens).toBe(0);
  expect((await run(backend, ask("hello"))).usage.cachedTokens).toBe(0);
});

test("the least recently used cache gives way, is saved, and comes back", async () => {
  const backend = await make({ sessions: 2 });
  for (const sessionId of ["a", "b", "a", "c"]) await run(backend, ask("hello", { sessionId }));
  expect(backend.stats().sessions).toBe(2);
  expect(readdirSync(join(stateDir, "kv"))).toHaveLength(1);
  // b gave way, not a; and it comes back, also into another process with the same folder.
  const restarted = await make({ sessions: 2 });
  expect((await run(restarted, ask("hello", { sessionId: "b" }))).usage.cachedTokens).toBe(3);
  expect((await run(restarted, ask("hello", { sessionId: "a" }))).usage.cachedTokens).toBe(0);
});

test("idle caches are forgotten after their time, in memory and on disk", async () => {
  const backend = await make({ sessions: 1 });
  for (const sessionId of ["a", "b"]) await run(backend, ask("hello", { sessionId }));
  clock.advance(60_001);
  for (const sessionId of ["a", "b"])
    expect((await run(backend, ask("hello", { sessionId }))).usage.cachedTokens).toBe(0);
  await backend.deleteSession("a");
  clock.advance(60_001);
  await make();
  expect(readdirSync(join(stateDir, "kv"))).toEqual([]);
});

test("a damaged saved cache is as good as none", async () => {
  const backend = await make({ sessions: 1 });
  for (const sessionId of ["a", "b"]) await run(backend, ask("hello", { sessionId }));
  const [file = ""] = readdirSync(join(stateDir, "kv"));
  writeFileSync(join(stateDir, "kv", file), "damaged");
  expect((await run(backend, ask("hello", { sessionId: "a" }))).usage.cachedTokens).toBe(0);
});

test("a session moves by export and import; damaged or foreign bytes are refused", async () => {
  const backend = await make();
  await run(backend, ask("hello", { sessionId: "s" }));
  const bytes = new Uint8Array(await new Response(await backend.exportSession("s")).arrayBuffer());
  const other = await make();
  await other.importSession("t", new Blob([bytes]).stream());
  expect((await run(other, ask("hello", { sessionId: "t" }))).usage.cachedTokens).toBe(3);

  const flipped = bytes.with(bytes.length - 3, 0x41);
  for (const bad of [flipped, bytes.slice(0, -1), new Uint8Array(), new Uint8Array([0xff, 0x0a, 0x00])]) {
    await expect(other.importSession("x", new Blob([new Uint8Array(bad)]).stream())).rejects.toMatchObject({
      code: "invalid_request",
    });
  }
  const tiny = await make({ contextTokens: 5 });
  await expect(tiny.importSession("x", new Blob([bytes]).stream())).rejects.toMatchObject({ code: "invalid_request" });
  await expect(other.exportSession("x")).rejects.toMatchObject({ code: "not_found" });
});

test("deleting frees memory and disk, and says whether there was something", async () => {
  const backend = await make({ sessions: 1 });
  for (const sessionId of ["a", "b"]) await run(backend, ask("hello", { sessionId }));
  expect(await backend.deleteSession("a")).toBe(true);
  expect(await backend.deleteSession("b")).toBe(true);
  expect(await backend.deleteSession("b")).toBe(false);
  expect(backend.stats()).toEqual({ sessions: 0, kvUsage: 0 });
  expect(readdirSync(join(stateDir, "kv"))).toEqual([]);
});

test("latency follows the clock, and waiting ends with the request", async () => {
  const backend = await make({ ttftMs: 1000, interTokenMs: 100, replyTokens: 3 });
  const controller = new AbortController();
  const stream = backend.generate(ask("hello"), controller)[Symbol.asyncIterator]();
  expect((await stream.next()).value).toMatchObject({ type: "prompt" });
  const first = stream.next();
  clock.advance(999);
  expect(await Promise.race([first, Promise.resolve("waits")])).toBe("waits");
  clock.advance(1);
  expect((await first).value).toMatchObject({ type: "text", text: "Hello" });
  const second = stream.next();
  controller.abort(new Error("gone"));
  await expect(second).rejects.toThrow("gone");
});

test("what was generated before an abort is in the cache", async () => {
  const backend = await make({ interTokenMs: 100 });
  const controller = new AbortController();
  const stream = backend.generate(ask("hello", { sessionId: "s" }), controller)[Symbol.asyncIterator]();
  await stream.next();
  await stream.next();
  const pending = stream.next();
  controller.abort(new Error("gone"));
  await expect(pending).rejects.toThrow("gone");
  const again = run(await backend, ask("!stub interTokenMs=0\nhello", { sessionId: "s" }));
  expect((await again).usage.cachedTokens).toBe(1);
  expect(backend.stats().sessions).toBe(1);
});

test("a long answer without latency lets an abort through", async () => {
  const backend = await make({ replyTokens: 100_000, contextTokens: 200_000 });
  const controller = new AbortController();
  setImmediate(() => controller.abort(new Error("gone")));
  await expect(run(backend, ask("hello"), controller.signal)).rejects.toThrow("gone");
});

test("errorRate fails the same request ids every time, about that share of them", async () => {
  const backend = await make({ errorRate: 0.3 });
  const outcome = (requestId: string) =>
    run(backend, { ...ask("hello"), requestId }).then(
      () => "ok",
      () => "failed",
    );
  const names = Array.from({ length: 300 }, (_, i) => `req-${i}`);
  const once = await Promise.all(names.map(outcome));
  expect(await Promise.all(names.map(outcome))).toEqual(once);
  const failed = once.filter((o) => o === "failed").length;
  expect(failed).toBeGreaterThan(60);
  expect(failed).toBeLessThan(120);
});

test("directives change one request, and unknown ones are refused by name", async () => {
  const backend = await make();
  expect((await run(backend, ask("!stub replyTokens=3\nhello"))).text).toBe("Hello from the");
  expect((await run(backend, ask("hello\n!stub replyTokens=3"))).tokens).toBe(8);
  await expect(run(backend, ask("!stub fail\nhello"))).rejects.toThrow("simulated failure");
  for (const line of [
    "!stub explode",
    "!stub ttftMs",
    "!stub ttftMs=x",
    "!stub ttftMs=-1",
    "!stub constructor",
    "!stub break=",
  ]) {
    expect(() => backend.generate(ask(line), new AbortController())).toThrow(
      expect.objectContaining({ code: "invalid_request" }),
    );
  }
});

test("break fails in mid-answer, after the tokens before it", async () => {
  const backend = await make();
  const texts: string[] = [];
  const consume = async () => {
    for await (const event of backend.generate(ask("!stub break=2\nhello"), new AbortController())) {
      if (event.type === "text") texts.push(event.text);
    }
  };
  await expect(consume()).rejects.toThrow("simulated failure in mid-answer");
  expect(texts).toEqual(["Hello", " from"]);
});

test("vary gives every text a length of its own, the same one each time", async () => {
  const backend = await make({ replyTokens: 10 });
  const lengths: number[] = [];
  for (let i = 0; i < 40; i++) lengths.push((await run(backend, ask(`!stub vary\nquestion ${i}`))).tokens);
  expect(Math.min(...lengths)).toBeGreaterThanOrEqual(1);
  expect(Math.max(...lengths)).toBeLessThanOrEqual(19);
  expect(new Set(lengths).size).toBeGreaterThan(8);
  expect((await run(backend, ask("!stub vary\nquestion 0"))).tokens).toBe(lengths[0]);
});

test("recall answers with what the session's cache holds", async () => {
  const backend = await make({ replyTokens: 1 });
  await run(backend, ask("the secret is 4711", { sessionId: "s" }));
  expect((await run(backend, ask("!stub recall", { sessionId: "s" }))).text).toContain("the secret is 4711");
  expect((await run(backend, ask("!stub recall", { sessionId: "t" }))).text).toBe("");
});

test("tool calls are single events whose tokens add up", async () => {
  const backend = await make();
  const tools = [
    {
      type: "function" as const,
      function: {
        name: "search",
        parameters: { type: "object", properties: { q: { type: "string", minLength: 2 } }, required: ["q"] },
      },
    },
  ];
  const prompt = { kind: "chat" as const, messages: [{ role: "user" as const, content: "search it" }], tools };
  const answer = await run(backend, { ...ask(""), prompt });
  expect(answer).toMatchObject({ finishReason: "tool_calls", text: "" });
  expect(answer.events.find((e) => e.type === "tool_call")).toMatchObject({
    index: 0,
    call: { type: "function", function: { name: "search", arguments: '{"q":"aa"}' } },
  });
  expect(answer.tokens).toBe(answer.usage.completionTokens);
  const cut = await run(backend, { ...ask("", { maxTokens: 4 }), prompt });
  expect(cut).toMatchObject({ finishReason: "length", tokens: 4 });
  expect(cut.events.some((e) => e.type === "tool_call")).toBe(false);
});

test("warm-up is one inference and ignores the error rate", async () => {
  const backend = await make({ errorRate: 1, replyTokens: 4 });
  expect((await backend.warmup("test", new AbortController().signal)).tokensPerSecond).toBeGreaterThan(0);
  expect(backend.stats().sessions).toBe(0);
});
