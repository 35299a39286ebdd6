import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { createBackend } from "../../runtime-image/llama-cpp/backend.ts";
import { loadEngine } from "../../runtime-image/llama-cpp/engine.ts";
import type { Step } from "../../runtime-image/llama-cpp/scheduler.ts";
import type {
  ChatMessage,
  GenerateEvent,
  GenerateRequest,
  LLMBackend,
  ToolDefinition,
  Usage,
} from "../../src/api/backend.ts";
import type { InstanceConfig } from "../../src/api/instance.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { eventually } from "../support/eventually.ts";
import { smolModel } from "../support/model.ts";

const never = new AbortController().signal;
const SESSIONS = 2;
const CONTEXT = 512;

let model: string;
let dir: string;
let steps: Step[] = [];
let backend: LLMBackend;

beforeAll(async () => {
  model = await smolModel();
  dir = await mkdtemp(join(tmpdir(), "llmpool-llama-"));
  backend = await open("main");
  await backend.warmup("test", never);
});
afterAll(async () => {
  await backend?.close();
  await rm(dir, { recursive: true, force: true });
});
beforeEach(() => {
  steps = [];
});

function configOf(name: string): InstanceConfig {
  return {
    ...{ pool: "p", id: "0", variant: "default", backend: "llama-cpp", host: "127.0.0.1", port: 0, metricsPort: 0 },
    ...{
      tokenFile: "",
      modelPath: model,
      cacheDir: dir,
      stateDir: join(dir, name),
      contextTokens: CONTEXT,
      sessions: SESSIONS,
    },
    ...{ requestTimeoutSeconds: 60, sessionTTLSeconds: 600, warmupPrompt: "test", threads: 1 },
    stub: { ttftMs: 0, interTokenMs: 0, replyTokens: 1, errorRate: 0 },
  };
}

/** An instance with its own folder of saved sessions. */
function open(name: string, change: Partial<InstanceConfig> = {}): Promise<LLMBackend> {
  const trace = (step: Step) => void steps.push(step);
  const deps = { clock: systemClock, log: silentLogger, onProgress() {}, signal: never, trace };
  return createBackend({ ...configOf(name), ...change }, deps);
}

let requests = 0;
function request(content: string | ChatMessage[], change: Partial<GenerateRequest> = {}): GenerateRequest {
  const messages: ChatMessage[] = typeof content === "string" ? [{ role: "user", content }] : content;
  return {
    requestId: `r${++requests}`,
    prompt: { kind: "chat", messages },
    maxTokens: 12,
    timeoutMs: 60_000,
    stop: [],
    sampling: { temperature: 0, topP: 1 },
    responseFormat: { type: "text" },
    ...change,
  };
}

interface Answer {
  text: string;
  calls: { name: string; arguments: string }[];
  finishReason: string;
  usage: Usage;
}

/** The whole answer. Holds the events to their contract on the way. */
async function ask(given: GenerateRequest, on: LLMBackend = backend, signal = never): Promise<Answer> {
  const events: GenerateEvent[] = [];
  for await (const event of on.generate(given, { signal })) events.push(event);
  const [prompt, done] = [events[0], events.at(-1)];
  if (prompt?.type !== "prompt" || done?.type !== "done") throw new Error("prompt first, done last");
  const between = events.slice(1, -1).filter((e) => e.type === "text" || e.type === "tool_call");
  expect(between).toHaveLength(events.length - 2);
  expect(done.usage).toMatchObject({ promptTokens: prompt.promptTokens, cachedTokens: prompt.cachedTokens });
  const told = between.reduce((sum, e) => sum + e.tokens, 0);
  expect(done.usage.completionTokens - told).toBeLessThanOrEqual(1); // the end token may come with `done`
  return {
    text: between.map((e) => (e.type === "text" ? e.text : "")).join(""),
    calls: between.flatMap((e) => (e.type === "tool_call" ? [e.call.function] : [])),
    finishReason: done.finishReason,
    usage: done.usage,
  };
}

const evaluated = (id: string): number =>
  steps.reduce((sum, s) => sum + (s.kind === "prefill" && s.label === id ? s.tokens : 0), 0);
const story = (words: number): string =>
  Array.from({ length: words }, (_, i) => ["The", "quick", "brown", "fox", "saw", "a", "river"][i % 7]).join(" ");

describe("sessions", () => {
  it("evaluate only what is new, and answer as if nothing had been cached", async () => {
    const first = request(`${story(80)}. What is the animal?`, { sessionId: "s1" });
    const one = await ask(first);
    expect(one.usage.cachedTokens).toBe(0);
    expect(evaluated(first.requestId)).toBe(one.usage.promptTokens - 1);
    const messages: ChatMessage[] = [
      ...(first.prompt.kind === "chat" ? first.prompt.messages : []),
      { role: "assistant", content: one.text },
      { role: "user", content: "And its colour?" },
    ];
    const second = request(messages, { sessionId: "s1" });
    const warm = await ask(second);
    expect(warm.usage.cachedTokens).toBeGreaterThan(one.usage.promptTokens);
    expect(evaluated(second.requestId)).toBe(warm.usage.promptTokens - warm.usage.cachedTokens - 1);
    const cold = await ask(request(messages));
    expect(cold.usage.cachedTokens).toBe(0);
    expect(warm.text).toBe(cold.text);
    expect(warm.usage.promptTokens).toBe(cold.usage.promptTokens);
  });

  it("come back from a file with the same answer, after an eviction and after a restart", async () => {
    const given = request(`${story(60)}. Go on.`, { sessionId: "evicted" });
    const cold = await ask(given);
    const again = async (on: LLMBackend, name: string): Promise<void> => {
      await ask(request("Hello", { sessionId: `${name}1` }), on);
      await ask(request("Hello", { sessionId: `${name}2` }), on);
    };
    await again(backend, "x");
    const restored = await ask({ ...given, requestId: "restored" });
    expect(restored.usage.cachedTokens).toBe(cold.usage.promptTokens - 1);
    expect(restored.text).toBe(cold.text);

    await again(backend, "y");
    await eventually("the file is there", async () =>
      (await readdir(join(dir, "main"))).some((f) => f.endsWith(".kv")),
    );
    const restarted = await open("main");
    try {
      const after = await ask({ ...given, requestId: "restarted" }, restarted);
      expect(after.usage.cachedTokens).toBe(cold.usage.promptTokens - 1);
      expect(after.text).toBe(cold.text);
    } finally {
      await restarted.close();
    }
  });

  it("are computed again when their file is damaged, and the file goes", async () => {
    const own = await open("damaged", { sessions: 1 });
    try {
      const given = request(`${story(40)}. Go on.`, { sessionId: "a", maxTokens: 6 });
      const cold = await ask(given, own);
      await ask(request("Hello", { sessionId: "b", maxTokens: 1 }), own);
      const path = await eventually("the file is there", async () => {
        const name = (await readdir(join(dir, "damaged"))).find((f) => f.endsWith(".kv"));
        return name && join(dir, "damaged", name);
      });
      const bytes = await readFile(path);
      bytes.fill(0x55, bytes.length / 2, bytes.length / 2 + 5000);
      await writeFile(path, bytes);
      const again = await ask({ ...given, requestId: "again" }, own);
      expect(again).toMatchObject({ text: cold.text, usage: { cachedTokens: 0 } });
      await eventually(
        "the damaged file is gone",
        async () => !(await readFile(path).catch(() => Buffer.alloc(0))).equals(bytes),
      );
    } finally {
      await own.close();
    }
  });

  it("move to an equal instance, and are refused by another", async () => {
    const given = request(`${story(40)}. Go on.`, { sessionId: "mover", maxTokens: 6 });
    const cold = await ask(given);
    const [equal, other] = [await open("equal"), await open("other", { contextTokens: 256 })];
    try {
      await equal.importSession("arrived", await backend.exportSession("mover"));
      const warm = await ask({ ...given, sessionId: "arrived", requestId: "moved" }, equal);
      expect(warm).toMatchObject({ text: cold.text, usage: { cachedTokens: cold.usage.promptTokens - 1 } });
      await expect(other.importSession("arrived", await backend.exportSession("mover"))).rejects.toMatchObject({
        code: "invalid_request",
      });
      await expect(other.exportSession("arrived")).rejects.toMatchObject({ code: "not_found" });
    } finally {
      await equal.close();
      await other.close();
    }
  });

  it("never tell each other's secrets, over evictions and returns", async () => {
    const names = ["ada", "bob", "cyd", "dan"];
    const secret = (name: string) => `${name.toUpperCase()}-${name.charCodeAt(1) * 7919}`;
    for (let round = 0; round < 2; round++) {
      await Promise.all(
        names.map(async (name) => {
          const content = `The password of ${name} is ${secret(name)}. Say the password.`;
          const { text } = await ask(request(content, { sessionId: name, maxTokens: 16 }));
          for (const other of names) if (other !== name) expect(text).not.toContain(secret(other));
        }),
      );
    }
  });
});

describe("the scheduler", () => {
  it("lets a session decode between the chunks of another's prompt, and changes neither's text", async () => {
    const talker = () => request("Count from one to twenty.", { maxTokens: 40 });
    const reader = () =>
      request(`${story(260)}. What is this?`, { maxTokens: 5, sampling: { temperature: 0.9, topP: 0.95, seed: 11 } });
    const alone = [await ask(talker()), await ask(reader())];
    steps = [];
    const [c, d] = [talker(), reader()];
    const pair = await Promise.all([ask(c), ask(d)]);
    expect(pair.map((answer) => answer.text)).toEqual(alone.map((answer) => answer.text));

    const chunks = steps.flatMap((s, i) => (s.kind === "prefill" && s.label === d.requestId ? [i] : []));
    const between = chunks.slice(1).map((at, i) => steps.slice((chunks[i] ?? 0) + 1, at));
    const isTalk = (s: Step) => s.kind === "decode" && s.labels.includes(c.requestId);
    // A slow machine makes small chunks, more than there is talk.
    const meanwhile = between.slice(0, between.findLastIndex((gap) => gap.some(isTalk)) + 1);
    expect(meanwhile.length).toBeGreaterThan(4);
    expect(meanwhile.filter((gap) => gap.some(isTalk)).length).toBeGreaterThan(meanwhile.length / 2);
  });

  it("gives seeded answers of batched sessions as each alone", async () => {
    const poem = (seed: number) =>
      request("Write a line of a poem.", { maxTokens: 80, sampling: { temperature: 1, topP: 0.95, seed } });
    const alone = [await ask(poem(1)), await ask(poem(2))];
    steps = [];
    const together = await Promise.all([ask(poem(1)), ask(poem(2))]);
    expect(steps.filter((s) => s.kind === "decode" && s.labels.length === 2).length).toBeGreaterThan(5);
    expect(together.map((a) => a.text)).toEqual(alone.map((a) => a.text));
    expect(alone[0]?.text).not.toBe(alone[1]?.text);
  });
});

describe("an abort", () => {
  it("ends a prompt after the chunk that runs, keeps what was evaluated, and frees the sequence", async () => {
    const abort = new AbortController();
    const given = request(`${story(330)}. Go on.`, { sessionId: "aborted" });
    const running = ask(given, backend, abort.signal);
    await eventually("two chunks were begun", () => steps.filter((s) => s.kind === "prefill").length >= 2);
    const begun = evaluated(given.requestId);
    abort.abort(new Error("cancelled"));
    await expect(running).rejects.toThrow("cancelled");
    expect(evaluated(given.requestId)).toBeLessThanOrEqual(begun + 64);
    const { usage } = await ask({ ...given, requestId: "resumed", maxTokens: 1 });
    expect(usage.cachedTokens).toBeGreaterThan(0);
    expect(usage.cachedTokens + evaluated("resumed") + 1).toBe(usage.promptTokens);
    expect(backend.stats()).toMatchObject({ busy: 0 });
  });

  it("ends an answer at its next token, and the next turn goes on from the cache", async () => {
    const abort = new AbortController();
    let tokens = 0;
    const given = request("Tell me a long story.", { sessionId: "talker", maxTokens: 400 });
    const read = async () => {
      for await (const event of backend.generate(given, { signal: abort.signal })) {
        if (event.type !== "text") continue;
        tokens += event.tokens;
        if (tokens === 5) abort.abort(new Error("hung up"));
      }
    };
    await expect(read()).rejects.toThrow("hung up");
    expect(tokens).toBe(5);
    const { usage } = await ask({ ...given, requestId: "again", maxTokens: 1 });
    expect(usage.cachedTokens).toBe(usage.promptTokens - 1);
  });

  it("is not needed by a reader who just stops reading", async () => {
    for await (const event of backend.generate(request("Hello", { sessionId: "left" }), { signal: never })) {
      if (event.type === "text") break;
    }
    expect(backend.stats()).toMatchObject({ busy: 0 });
    expect((await ask(request("Hello", { sessionId: "left" }))).usage.cachedTokens).toBeGreaterThan(0);
  });

  it("comes from the request's own time too, waiting included", async () => {
    const late = request(`${story(330)}. Go on.`, { timeoutMs: 1 });
    await expect(ask(late)).rejects.toMatchObject({ code: "request_timeout" });
    expect(backend.stats()).toMatchObject({ busy: 0 });
  });
});

describe("limits", () => {
  it("refuses a prompt without room for an answer before anything is evaluated, and says both numbers", async () => {
    await expect(ask(request(story(600)))).rejects.toMatchObject({
      code: "context_length_exceeded",
      message: expect.stringMatching(/\d{3} tokens.*512.*contextTokens/),
      param: "messages",
    });
    await expect(ask(request("x".repeat(5_000_000)))).rejects.toMatchObject({ code: "context_length_exceeded" });
    await expect(backend.countTokens({ kind: "raw", text: story(600) })).rejects.toMatchObject({
      code: "context_length_exceeded",
    });
    expect(steps).toEqual([]);
  });

  it("ends with length where the context is full, never by forgetting the beginning", async () => {
    const small = await open("small", { contextTokens: 256, sessions: 1 });
    try {
      const { maxTokens: _, ...open } = request(
        "Count from 1 to 1000, and never stop. 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,",
        { sessionId: "full" },
      );
      const answer = await ask({ ...open, sampling: { temperature: 0, topP: 1, frequencyPenalty: -2 } }, small);
      expect(answer.finishReason).toBe("length");
      expect(answer.usage.promptTokens + answer.usage.completionTokens).toBe(256);
      const again = await ask({ ...open, requestId: "again", maxTokens: 1 }, small);
      expect(again.usage.cachedTokens).toBe(answer.usage.promptTokens - 1);
    } finally {
      await small.close();
    }
  });

  it("keeps to the reservation, and refuses one that leaves no room for a token", async () => {
    const given = request("Tell me a story.");
    const promptTokens = await backend.countTokens(given.prompt);
    await expect(ask({ ...given, maxTotalTokens: promptTokens })).rejects.toMatchObject({ code: "budget_exhausted" });
    expect(steps).toEqual([]);
    const answer = await ask({ ...given, maxTotalTokens: promptTokens + 3 });
    expect(answer).toMatchObject({ finishReason: "length", usage: { promptTokens, completionTokens: 3 } });
  });

  it("refuses a context longer than the model was trained for", async () => {
    await expect(open("long", { contextTokens: 8193, sessions: 1 })).rejects.toMatchObject({
      reason: "ConfigInvalid",
      message: expect.stringMatching(/contextTokens is 8193.*8192/),
    });
  });
});

describe("prompts", () => {
  it("have as many tokens as Hugging Face's template and tokenizer give", async () => {
    const messages: ChatMessage[] = [
      { role: "system", content: "You are a helpful AI assistant named SmolLM, trained by Hugging Face" },
      { role: "user", content: "What is the capital of France? Answer briefly" },
    ];
    // As counted by the `tokenizers` library with this model's vocabulary, over the text that Python's Jinja renders.
    expect(await backend.countTokens({ kind: "chat", messages })).toBe(39);
    expect(await backend.countTokens({ kind: "chat", messages: [{ role: "user", content: "Hi" }] })).toBe(31);
    expect(await backend.countTokens({ kind: "raw", text: "Hello" })).toBe(1);
  });

  it("keep control tokens in a caller's text as text", async () => {
    const count = (content: string) => backend.countTokens({ kind: "chat", messages: [{ role: "user", content }] });
    const [plain, forged] = [await count(""), await count("<|im_end|>")];
    expect(forged - plain).toBeGreaterThan(2);
  });

  it("are refused when empty", async () => {
    await expect(ask({ ...request(""), prompt: { kind: "raw", text: "" } })).rejects.toMatchObject({
      code: "invalid_request",
    });
  });
});

describe("answers", () => {
  it("stop before a stop string, which may lie across tokens", async () => {
    const raw = (stop: string[]) =>
      ask({ ...request(""), prompt: { kind: "raw", text: "1, 2, 3, 4, 5, 6," }, stop, maxTokens: 24 });
    const free = await raw([]);
    const stop = free.text.slice(9, 14);
    const cut = await raw([stop]);
    expect(cut.text).toBe(free.text.slice(0, free.text.indexOf(stop)));
    expect(cut.finishReason).toBe("stop");
    expect(cut.usage.completionTokens).toBeLessThan(free.usage.completionTokens);
  });

  it("repeat with a seed, and differ without one", async () => {
    const poem = (seed?: number) =>
      ask(
        request("Write a line of a poem.", {
          sampling: { temperature: 1.2, topP: 1, ...(seed !== undefined && { seed }) },
        }),
      );
    for (const seed of [5, -1, 2 ** 32 - 1, Number.MAX_SAFE_INTEGER]) {
      expect((await poem(seed)).text).toBe((await poem(seed)).text);
    }
    expect((await poem(-1)).text).not.toBe((await poem(-2)).text);
    const free = new Set([await poem(), await poem(), await poem()].map((a) => a.text));
    expect(free.size).toBeGreaterThan(1);
  });

  it("feel penalties, top_k and a temperature near zero", async () => {
    const prompt = { kind: "raw" as const, text: "ha ha ha ha ha ha ha ha ha ha ha ha ha ha" };
    const sample = (sampling: object) =>
      ask({ ...request(""), prompt, maxTokens: 20, sampling: { temperature: 0, topP: 1, ...sampling } });
    const free = await sample({});
    const kinds = (text: string) => new Set(text.split(/\s+/)).size;
    const varied = await sample({ frequencyPenalty: 2, presencePenalty: 2 });
    expect(kinds(varied.text)).toBeGreaterThan(kinds(free.text));
    expect((await sample({ temperature: 2, topK: 1, seed: 3 })).text).toBe(free.text);
    expect((await sample({ temperature: 2, minP: 1, seed: 3 })).text).toBe(free.text);
    for (const temperature of [1e-40, 1e-6, 1e-5]) {
      expect((await sample({ temperature, seed: 3 })).text).toBe(free.text);
    }
  });

  const person = {
    type: "object",
    properties: {
      name: { type: "string", maxLength: 12 },
      age: { type: "integer", minimum: 1, maximum: 120 },
      tags: { type: "array", items: { enum: ["a", "b"] }, maxItems: 2 },
    },
    required: ["name", "age"],
  };
  it("keep a JSON schema and end with it", async () => {
    const answer = await ask(
      request("Describe a person.", {
        maxTokens: 60,
        responseFormat: { type: "json_schema", schema: person },
        sampling: { temperature: 1, topP: 1, seed: 4 },
      }),
    );
    const value = JSON.parse(answer.text) as { name: string; age: number };
    expect(answer.finishReason).toBe("stop");
    expect(value.name.length).toBeLessThanOrEqual(12);
    expect(value.age).toBeGreaterThanOrEqual(1);
    const json = await ask(
      request('Say {"ok": true} as JSON.', { maxTokens: 60, responseFormat: { type: "json_object" } }),
    );
    if (json.finishReason === "stop") expect(typeof JSON.parse(json.text)).toBe("object");
    expect(json.text).toMatch(/^\{/);
  });

  it("refuse a schema that cannot be kept, in words and at once", async () => {
    const hostile: Record<string, unknown>[] = [
      { type: "array", items: { not: {} } },
      { $ref: "#" },
      { type: "array", minItems: 1e9 },
    ];
    for (const schema of hostile) {
      await expect(ask(request("x", { responseFormat: { type: "json_schema", schema } }))).rejects.toMatchObject({
        code: "invalid_request",
      });
    }
    expect(backend.stats()).toMatchObject({ busy: 0 });
  });

  const tools: ToolDefinition[] = ["get_weather", "get_time"].map((name) => ({
    type: "function",
    function: {
      name,
      description: `${name} of a city`,
      parameters: { type: "object", properties: { city: { type: "string", maxLength: 20 } }, required: ["city"] },
    },
  }));
  it("call a tool when they must", async () => {
    const forced = (toolChoice: "required" | { name: string }) =>
      ask({
        ...request(""),
        prompt: { kind: "chat", messages: [{ role: "user", content: "Time in Oslo?" }], tools, toolChoice },
        maxTokens: 60,
      });
    const named = await forced({ name: "get_time" });
    expect(named).toMatchObject({ finishReason: "tool_calls", text: "", calls: [{ name: "get_time" }] });
    expect(typeof JSON.parse(named.calls[0]?.arguments ?? "").city).toBe("string");
    expect((await forced("required")).calls).toHaveLength(1);
    await expect(forced({ name: "get_date" })).rejects.toMatchObject({ code: "invalid_request", param: "tool_choice" });
  });
});

describe("the process", () => {
  it("computes with the threads it is told, from the next batch on", async () => {
    const config: InstanceConfig = { ...configOf("threads"), sessions: 1 };
    const options = {
      config,
      log: silentLogger,
      cpus: 2,
      threads: 1,
      gpuExpected: false,
      signal: never,
      onProgress() {},
    };
    const { llama, model: loaded, context, sequences, close } = await loadEngine(options);
    try {
      const used = async (): Promise<number> => {
        await sequences[0]?.append(loaded.tokenize("one two"));
        return context.currentThreads;
      };
      expect(await used()).toBe(1);
      llama.maxThreads = 2;
      expect(await used()).toBe(2);
      llama.maxThreads = 1;
      expect(await used()).toBe(1);
    } finally {
      await close();
    }
  });

  it.each([
    { name: "is missing", make: async () => join(dir, "none.gguf"), reason: "ModelNotFound" },
    {
      name: "is a folder",
      make: async () => {
        await mkdir(join(dir, "folder.gguf"));
        return join(dir, "folder.gguf");
      },
      reason: "ModelInvalid",
    },
    {
      name: "is cut in half",
      make: () => damaged((bytes) => bytes.subarray(0, bytes.length / 2)),
      reason: "ModelInvalid",
    },
    { name: "lacks its last byte", make: () => damaged((bytes) => bytes.subarray(0, -1)), reason: "ModelInvalid" },
    {
      name: "names an architecture that nobody knows",
      make: () => damaged((bytes) => bytes.write("xlama", bytes.indexOf("llama"), "latin1")),
      reason: "ModelInvalid",
    },
    {
      name: "has tensors of a wrong size",
      make: () => damaged((bytes) => bytes.writeBigUInt64LE(64n, bytes.indexOf("blk.0.attn_k.weight") + 19 + 4)),
      reason: "ModelInvalid",
    },
    {
      name: "has a tensor under another name",
      make: () =>
        damaged((bytes) => bytes.write("blk.0.attn_x.weight", bytes.indexOf("blk.0.attn_k.weight"), "latin1")),
      reason: "ModelInvalid",
    },
    {
      name: "has a template that is none",
      make: () => damaged((bytes) => bytes.write("{% what", bytes.indexOf("{% for message"), "latin1")),
      reason: "ModelInvalid",
    },
  ])("says why it cannot load a model that $name", async ({ make, reason }) => {
    const path = await make();
    await expect(open("bad", { modelPath: path })).rejects.toMatchObject({
      name: "StartError",
      reason,
      message: expect.stringContaining(path),
    });
    await rm(path, { recursive: true, force: true });
  });

  /** A copy of the model, changed. */
  async function damaged(edit: (bytes: Buffer) => unknown): Promise<string> {
    const bytes = await readFile(model);
    const path = join(dir, "damaged.gguf");
    const edited = edit(bytes);
    await writeFile(path, Buffer.isBuffer(edited) ? edited : bytes);
    return path;
  }

  it("says that its folder cannot be written", async () => {
    const stateDir = join(dir, "a-file");
    await writeFile(stateDir, "");
    await expect(open("x", { stateDir })).rejects.toMatchObject({
      reason: "ConfigInvalid",
      message: expect.stringContaining(stateDir),
    });
  });

  it("closes twice, aborts what runs, and takes nothing new", async () => {
    const own = await open("closing", { sessions: 1 });
    const running = ask(request(`${story(330)}. Go on.`), own);
    await eventually("it runs", () => steps.length > 1);
    await Promise.all([
      expect(running).rejects.toMatchObject({ code: "instance_unavailable" }),
      own.close(),
      own.close(),
    ]);
    await expect(ask(request("Hello"), own)).rejects.toMatchObject({ code: "instance_unavailable" });
  });
});
