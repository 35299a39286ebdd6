import type { ServerResponse } from "node:http";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { EpisodeObject, InstanceObject, List, SessionObject } from "../../src/api/http.ts";
import { eventually } from "../support/eventually.ts";
import { answerHello, chunk, type FakeInstance, refuse, startStream, USAGE } from "../support/fake-instance.ts";
import { openRig, type Rig } from "../support/router-rig.ts";

let rig: Rig;
const open: AsyncDisposable[] = [];
const startRig = (spec: object, count?: number) => openRig(open, spec, count);

afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one[Symbol.asyncDispose]();
});

function at(index: number): FakeInstance {
  const instance = rig.instances[index];
  if (!instance) throw new Error(`no fake instance ${index}`);
  return instance;
}

describe("a request and its answer", () => {
  beforeEach(async () => {
    rig = await startRig({
      roles: [
        { name: "planner", instance: 0 },
        { name: "coder", instance: 1, systemPrompt: "You code." },
      ],
    });
  });

  test("goes to the role's instance, with the pool's token, and says who served it", async () => {
    const response = await rig.chat({ model: "coder" }, { "x-session-id": "s1", "x-request-id": "mine-1" });
    expect(response.status).toBe(200);
    expect(await response.json()).toMatchObject({ choices: [{ message: { content: "hello" } }], usage: USAGE });
    expect(Object.fromEntries(response.headers)).toMatchObject({
      "x-request-id": "mine-1",
      "x-llmpool-instance": "1",
      "x-llmpool-role": "coder",
      "x-llmpool-session": "s1",
      "x-llmpool-queue-ms": "0",
    });
    const [call] = at(1).received;
    expect(call?.headers).toMatchObject({
      authorization: "Bearer pool-token",
      "x-llmpool-max-total-tokens": expect.any(String),
    });
    expect(at(0).received).toEqual([]);
  });

  test("puts the role's system prompt in front, unless there is one", async () => {
    await rig.chat({ model: "coder" });
    await rig.chat({
      model: "coder",
      messages: [
        { role: "developer", content: "mine" },
        { role: "user", content: "hi" },
      ],
    });
    const messages = at(1).received.map((c) => (c.body.messages as { content: string }[]).map((m) => m.content));
    expect(messages).toEqual([
      ["You code.", "hi"],
      ["mine", "hi"],
    ]);
  });

  test("streams the instance's frames as they are, without the usage comment", async () => {
    const response = await rig.chat({ model: "planner", stream: true });
    expect(response.headers.get("content-type")).toContain("text/event-stream");
    expect(await response.text()).toBe(`${chunk("hel")}${chunk("lo")}${chunk("", "stop")}data: [DONE]\n\n`);
  });

  test("answers /v1/generate in its own form, plain and streamed", async () => {
    const plain = await rig.post("/v1/generate", {
      role: "planner",
      prompt: "hi",
      max_new_tokens: 5,
      session_id: "g1",
    });
    expect(await plain.json()).toEqual({
      text: "hello",
      instance_id: "0",
      session_id: "g1",
      finish_reason: "stop",
      usage: USAGE,
    });
    expect(at(0).received[0]?.body).toMatchObject({
      messages: [{ role: "user", content: "hi" }],
      max_completion_tokens: 5,
    });
    const stream = await rig.post("/v1/generate", { instance_id: 1, prompt: "hi", stream: true });
    expect(await stream.text()).toBe(
      `data: {"text":"hel"}\n\ndata: {"text":"lo"}\n\ndata: ${JSON.stringify({ text: "", instance_id: "1", session_id: null, finish_reason: "stop", usage: USAGE })}\n\ndata: [DONE]\n\n`,
    );
  });

  test("/v1/generate takes metadata as the OpenAI routes do, and a null as nothing", async () => {
    const nothing = {
      role: null,
      agent_id: null,
      instance_id: null,
      episode_id: null,
      timeout_s: null,
      messages: null,
    };
    const metadata = { role: "coder", session_id: "ep:coder", episode_id: "ep", note: "x" };
    const answer = await rig.post("/v1/generate", {
      ...nothing,
      prompt: "hi",
      metadata,
      session_id: null,
      max_new_tokens: null,
      stop: null,
      temperature: null,
      seed: null,
      stream: null,
    });
    expect(await answer.json()).toMatchObject({ text: "hello", instance_id: "1", session_id: "ep:coder" });
    expect(at(1).received[0]?.body).toMatchObject({ metadata });
    expect((await rig.get<EpisodeObject>("/v1/episodes/ep")).sessions).toEqual(["ep:coder"]);
    const refused = await rig.post("/v1/generate", { prompt: "hi", metadata: { role: 5 } });
    expect(await refused.json()).toMatchObject({ error: { code: "invalid_request", param: "metadata.role" } });
  });

  test("keeps a session on its instance, and refuses to have it on another", async () => {
    await rig.chat({ model: "planner" }, { "x-session-id": "s" });
    const refused = await rig.chat({ model: "planner" }, { "x-session-id": "s", "x-llmpool-instance": "1" });
    expect(refused.status).toBe(400);
    expect(await refused.text()).toMatch(/instance 0, not on 1/);
    const { data } = await rig.get<List<SessionObject>>("/v1/sessions");
    expect(data).toMatchObject([{ id: "s", role: "planner", instance_id: "0" }]);
    await fetch(`${rig.router.url}/v1/sessions/s`, { method: "DELETE" });
    expect(at(0).deletedSessions).toHaveLength(1);
    expect(at(0).deletedSessions[0]).toBe(at(0).received[0]?.headers["x-llmpool-session"]);
    expect((await rig.get<List<SessionObject>>("/v1/sessions")).data).toEqual([]);
  });

  test("carries an instance's own refusal, with its code", async () => {
    at(0).behave = (_call, res) => refuse(res, 400, "context_length_exceeded");
    const response = await rig.chat({ model: "planner" });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ error: { code: "context_length_exceeded" } });
    expect(at(0).received).toHaveLength(1);
  });

  test.each([
    ["a body that is no JSON", "{", 400, "invalid_request"],
    ["no messages", "{}", 400, "invalid_request"],
    ["n above 1", '{"messages":[{"role":"user","content":"x"}],"n":1000}', 400, "invalid_request"],
    ["a negative max_tokens", '{"messages":[{"role":"user","content":"x"}],"max_tokens":-1}', 400, "invalid_request"],
    ["an unknown model", '{"messages":[{"role":"user","content":"x"}],"model":"gpt-9"}', 404, "not_found"],
    ["a body above the limit", " ".repeat(9 * 2 ** 20), 413, "payload_too_large"],
  ])("refuses %s before any instance hears of it", async (_name, body, status, code) => {
    const response = await fetch(`${rig.router.url}/v1/chat/completions`, { method: "POST", body });
    expect(response.status).toBe(status);
    expect(await response.json()).toMatchObject({ error: { code } });
    expect(at(0).received).toEqual([]);
  });

  test("refuses a control body above the limit, too, and closes the connection", async () => {
    const response = await fetch(`${rig.router.url}/v1/episodes`, { method: "POST", body: " ".repeat(9 * 2 ** 20) });
    expect(response.status).toBe(413);
    expect(response.headers.get("connection")).toBe("close");
  });

  test.each([
    ["GET", "/v1/chat/completions", 405, "POST"],
    ["DELETE", "/v1/models", 405, "GET"],
    ["PUT", "/v1/episodes/e1", 405, "GET, DELETE"],
    ["GET", "/v1/nothing", 404, null],
  ])("%s %s is %i, by the name that its caller gave it", async (method, path, status, allow) => {
    const response = await fetch(rig.router.url + path, { method, headers: { "x-request-id": "mine-1" } });
    expect(response.status).toBe(status);
    expect(response.headers.get("allow")).toBe(allow);
    expect(response.headers.get("x-request-id")).toBe("mine-1");
  });

  test("every answer has a name, also without a caller's", async () => {
    const ids = ["/healthz", "/v1/episodes", "/v1/nothing"].map(async (path) =>
      (await fetch(rig.router.url + path)).headers.get("x-request-id"),
    );
    expect(await Promise.all(ids)).toEqual(Array(3).fill(expect.stringMatching(/^req_/)));
  });

  test.each([
    ["/chat/completions", "but /v1/chat/completions"],
    ["/v1/v1/chat/completions", "but /v1/chat/completions"],
    ["/", "there are /v1/chat/completions,"],
  ])("who calls %s is told where to", async (path, says) => {
    const response = await fetch(rig.router.url + path, { method: "POST", body: "{}" });
    expect(response.status).toBe(404);
    expect(await response.text()).toContain(says);
  });
});

describe("faults", () => {
  beforeEach(async () => {
    rig = await startRig({ instances: 2, roles: [{ name: "planner", instance: 0 }], rebindAfterSeconds: 30 });
  });

  const waiting = (calls: number) => eventually(`${calls} wait`, async () => (await instance("0")).queued === calls);

  test("an instance that has begun to drain refuses one call: that one and the next wait for it, and are answered", async () => {
    at(0).behave = (call, res) =>
      at(0).received.length < 2 ? refuse(res, 503, "instance_unavailable") : answerHello(call, res);
    const first = rig.chat({ model: "planner" });
    await waiting(1);
    const second = rig.chat({ model: "planner" });
    await waiting(2);
    expect(at(0).received).toHaveLength(1);
    rig.clock.advance(1_000);
    expect([(await first).status, (await second).status]).toEqual([200, 200]);
    expect(at(0).received).toHaveLength(3);
  });

  test.each([
    ["refuses it", (res: ServerResponse) => refuse(res, 503, "instance_unavailable")],
    ["loses its connection", (res: ServerResponse) => void res.destroy()],
  ])("when its instance %s, a call without a cache goes to another, and one with a cache waits", async (_, fail) => {
    at(0).behave = (_call, res) => fail(res);
    const servedBy = async (headers: Record<string, string>) =>
      (await rig.chat({}, headers)).headers.get("x-llmpool-instance");
    expect(await servedBy({})).toBe("1");
    rig.clock.advance(1_000);
    expect(await servedBy({ "x-session-id": "s1" })).toBe("1");
    expect(at(0).received).toHaveLength(2);

    at(0).behave = answerHello;
    rig.clock.advance(1_000);
    const before = at(1).received.length;
    at(1).behave = (call, res) => (at(1).received.length > before + 1 ? answerHello(call, res) : fail(res));
    const warm = servedBy({ "x-session-id": "s1" });
    await eventually("it waits", async () => (await instance("1")).queued === 1);
    rig.clock.advance(1_000);
    expect(await warm).toBe("1");
    expect(at(0).received).toHaveLength(2);
  });

  test("a fifth of the live calls may be in a retry at once: of 40 that are refused together 8 are tried again", async () => {
    const all = Promise.withResolvers<void>();
    const end = Promise.withResolvers<void>();
    at(0).behave = async (call, res) => {
      const calls = at(0).received.length;
      if (calls === 40) all.resolve();
      await (calls <= 40 ? all : end).promise;
      if (calls <= 40) refuse(res, 503, "instance_unavailable");
      else await answerHello(call, res);
    };
    const statuses: number[] = [];
    const answers = Array.from({ length: 40 }, async () => {
      statuses.push((await rig.chat({ model: "planner" })).status);
    });
    await eventually("most are given up", () => statuses.length === 32);
    await waiting(8);
    rig.clock.advance(1_000);
    await eventually("the others are tried again", () => at(0).received.length === 48);
    expect(statuses).toEqual(Array(32).fill(503));
    const series = await (await fetch(`${rig.router.url}/metrics`)).text();
    expect(series).toMatch(/^llmpool_retries_total 8$/m);
    expect(series).toMatch(/^llmpool_retries_refused_total 32$/m);
    end.resolve();
    await Promise.all(answers);
    expect(statuses.slice(32)).toEqual(Array(8).fill(200));
    // All are over: the next one may be tried again.
    at(0).behave = (call, res) =>
      at(0).received.length === 49 ? refuse(res, 503, "instance_unavailable") : answerHello(call, res);
    const last = rig.chat({ model: "planner" });
    await waiting(1);
    rig.clock.advance(1_000);
    expect((await last).status).toBe(200);
  });

  test("a stream that breaks off ends in one error without [DONE], and nothing is tried again", async () => {
    at(0).behave = (_call, res) => {
      startStream(res);
      res.write(chunk("hel"), () => res.destroy());
    };
    const text = await (await rig.chat({ model: "planner", stream: true })).text();
    expect(text).toContain(chunk("hel"));
    expect(text).toMatch(/data: \{"error":\{.*"code":"upstream_error".*\}\}\n\n$/);
    expect(text).not.toContain("[DONE]");
    expect(at(0).received).toHaveLength(1);
  });

  test("a session whose instance is lost in mid-answer hears that its cache is gone", async () => {
    at(0).behave = (_call, res) => {
      startStream(res);
      res.write(chunk("hel"), () => res.destroy());
    };
    const text = await (await rig.chat({ model: "planner", stream: true }, { "x-session-id": "s" })).text();
    expect(text).toMatch(/"code":"session_lost"/);
  });

  test("a session of an instance that stays down moves after rebindAfterSeconds, and the answer says so", async () => {
    await rig.chat({ model: "planner" }, { "x-session-id": "s" });
    rig.source.set([at(0).endpoint({ state: "Failed", message: "out of memory" }), at(1).endpoint()]);
    const waiting = rig.chat({ model: "planner" }, { "x-session-id": "s" });
    await eventually("the call waits", async () => (await instance("0")).queued === 1);
    rig.clock.advance(29_000);
    expect((await instance("0")).queued).toBe(1);
    rig.clock.advance(1_000);
    const moved = await waiting;
    expect(moved.status).toBe(200);
    expect(moved.headers.get("x-llmpool-rebound")).toBe("true");
    expect(moved.headers.get("x-llmpool-instance")).toBe("1");
    // It is as old there as it was.
    expect(moved.headers.get("x-llmpool-queue-ms")).toBe("30000");
    expect(at(1).received[0]?.headers["x-llmpool-waited-ms"]).toBe("30000");
    const next = await rig.chat({ model: "planner" }, { "x-session-id": "s" });
    expect(next.headers.get("x-llmpool-instance")).toBe("1");
    expect(next.headers.get("x-llmpool-rebound")).toBeNull();
  });

  test("a session that begins while its role's instance is down has moved from nowhere", async () => {
    rig.source.set([at(0).endpoint({ state: "Failed", message: "out of memory" }), at(1).endpoint()]);
    const waiting = rig.chat({ model: "planner" }, { "x-session-id": "new" });
    await eventually("the call waits", async () => (await instance("0")).queued === 1);
    rig.clock.advance(30_000);
    const { headers } = await waiting;
    expect([headers.get("x-llmpool-instance"), headers.get("x-llmpool-rebound")]).toEqual(["1", null]);
  });

  /** The answer to a call whose instance stays down. */
  async function afterRebind(answer: Promise<Response>): Promise<[Response, string]> {
    await eventually("the call waits", async () => (await instance("0")).queued === 1);
    rig.clock.advance(30_000);
    const response = await answer;
    return [response, await response.text()];
  }

  test("nothing ready at all is instance_unavailable with the reason", async () => {
    rig.source.set([at(0).endpoint({ state: "Failed", message: "out of memory" })]);
    const [response, body] = await afterRebind(rig.chat({ model: "planner" }));
    expect([response.status, response.headers.get("retry-after")]).toEqual([503, null]);
    expect(body).toMatch(/instance 0 is not ready \(out of memory\)/);
  });

  test("Retry-After says when an instance is started again", async () => {
    const restartAt = rig.clock.now() + 75_000;
    rig.source.set([at(0).endpoint({ state: "Failed", restartAt })]);
    const [response] = await afterRebind(rig.chat({ model: "planner" }));
    expect([response.status, response.headers.get("retry-after")]).toEqual([503, "45"]);
  });

  test("Retry-After says when a breaker lets the next probe through", async () => {
    rig = await startRig({ roles: [], rebindAfterSeconds: 10 });
    const pinned = () => rig.chat({}, { "x-llmpool-instance": "0" });
    at(0).behave = (_call, res) => refuse(res, 502, "upstream_error");
    for (let i = 0; i < 5; i++) await pinned();
    const waiting = pinned();
    await eventually("the call waits", async () => (await instance("0")).queued === 1);
    rig.clock.advance(10_000);
    const response = await waiting;
    expect([response.status, response.headers.get("retry-after")]).toEqual([503, "20"]);
  });

  test("a restarted instance takes those who waited for it", async () => {
    rig.source.set([at(1).endpoint()]);
    const waiting = rig.chat({ model: "planner" });
    await eventually("the call waits", async () => (await instance("0")).queued === 1);
    rig.source.set(rig.instances.map((i) => i.endpoint()));
    const response = await waiting;
    expect(response.headers.get("x-llmpool-instance")).toBe("0");
    expect(response.headers.get("x-llmpool-rebound")).toBeNull();
  });

  test("a caller who hangs up stops the generation, and is charged what the instance counted", async () => {
    at(0).behave = (_call, res) => {
      startStream(res);
      res.write(chunk("hel"));
    };
    const abort = new AbortController();
    const body = { messages: [{ role: "user", content: "hi" }], max_tokens: 20, stream: true, model: "planner" };
    const response = await rig.post("/v1/chat/completions", body, { "x-episode-id": "e1" }, abort.signal);
    await response.body?.getReader().read();
    const [call] = at(0).received;
    at(0).records.set(String(call?.headers["x-request-id"]), {
      prompt_tokens: 7,
      completion_tokens: 2,
      cached_tokens: 0,
    });
    abort.abort();
    await call?.aborted;
    await eventually("settled", async () => (await rig.budget("e1")).reserved === 0);
    expect(await rig.budget("e1")).toEqual({ used: 9, reserved: 0 });
    expect((await instance("0")).running).toBe(0);
  });

  test("a request that runs out of time is cut off with request_timeout", async () => {
    at(0).behave = () => {};
    const waiting = rig.chat({ model: "planner" }, { "x-request-timeout": "5" });
    const call = await eventually("it runs", () => at(0).received[0]);
    rig.clock.advance(5_000);
    const response = await waiting;
    expect(response.status).toBe(504);
    expect(await response.json()).toMatchObject({ error: { code: "request_timeout" } });
    await call.aborted;
  });

  test("a waiting stream gets its headers after ten seconds, then hears what it waits for, and late values on the last chunk", async () => {
    const { promise: go, resolve } = Promise.withResolvers<void>();
    at(0).behave = async (call, res) => {
      await go;
      await answerHello(call, res);
    };
    const waiting = rig.chat({ model: "planner", stream: true });
    await eventually("it runs", () => at(0).received[0]);
    rig.clock.advance(10_000);
    const response = await waiting;
    expect(response.headers.get("x-llmpool-role")).toBe("planner");
    resolve();
    const text = await response.text();
    expect(text).toMatch(/^: prefill\n\n/);
    const last = text.split("\n\n").at(-3) ?? "";
    expect(JSON.parse(last.slice("data: ".length))).toMatchObject({ llmpool: { instance: "0", role: "planner" } });
    expect(text).toMatch(/data: \[DONE\]\n\n$/);
  });

  test("a fault of an instance is upstream_error, refused or in the middle of a stream, and may be sent again", async () => {
    at(0).behave = (_call, res) => refuse(res, 500, "internal_error");
    const refused = await rig.chat({ model: "planner" });
    expect([refused.status, refused.headers.get("x-should-retry")]).toEqual([502, null]);
    expect(await refused.json()).toMatchObject({
      error: { code: "upstream_error", message: expect.stringMatching(/^the instance failed: /) },
    });
    at(0).behave = (_call, res) => {
      startStream(res);
      res.end(`${chunk("hel")}data: {"error":{"code":"internal_error","message":"x"}}\n\n`);
    };
    const broken = await rig.chat({ model: "planner", stream: true });
    expect(await broken.text()).toMatch(/data: \{"error":.*"code":"upstream_error".*\}\n\n$/);
  });

  test("a stream that fails after its headers had to leave early has all that came before", async () => {
    const { promise: go, resolve } = Promise.withResolvers<void>();
    at(0).behave = async (_call, res) => {
      await go;
      startStream(res);
      res.end(`${chunk("one ")}${chunk("two ")}data: {"error":{"code":"request_timeout","message":"x"}}\n\n`);
    };
    const waiting = rig.chat({ model: "planner", stream: true });
    await eventually("it runs", () => at(0).received[0]);
    rig.clock.advance(10_000);
    const response = await waiting;
    resolve();
    expect(await response.text()).toMatch(/"one ".*\n\n.*"two ".*\n\n.*"code":"request_timeout".*\n\n$/);
  });

  test("calls whose own time is over say nothing against their instance, whoever notices first", async () => {
    at(0).behave = (_call, res) => {
      startStream(res);
      res.end(`${chunk("hel")}data: {"error":{"code":"request_timeout","message":"x"}}\n\n`);
    };
    for (let i = 0; i < 6; i++) {
      const response = await rig.chat({ model: "stub", stream: true });
      expect(response.headers.get("x-llmpool-instance")).toBe("0");
      await response.text();
    }
  });

  test("an instance that fails five times in a row gets no more until a probe of it succeeds", async () => {
    at(0).behave = (_call, res) =>
      at(0).received.length % 2 === 0 ? refuse(res, 502, "upstream_error") : refuse(res, 500, "internal_error");
    const served = async () => (await rig.chat({ model: "stub" })).headers.get("x-llmpool-instance");
    for (let i = 0; i < 5; i++) expect(await served()).toBe("0");
    for (let i = 0; i < 3; i++) expect(await served()).toBe("1");
    at(0).behave = answerHello;
    rig.clock.advance(30_000);
    expect(await served()).toBe("0");
    expect(await served()).toBe("0");
    expect(at(0).received).toHaveLength(7);
  });

  test("a caller who does not read is cut off, and its slot is free again", async () => {
    const line = chunk("x".repeat(64 * 1024));
    at(0).behave = ({ aborted }, res) => {
      startStream(res);
      let going = true;
      void aborted.then(() => {
        going = false;
      });
      const more = () => {
        while (going && res.write(line));
        if (going) res.once("drain", more);
      };
      more();
    };
    const body = { messages: [{ role: "user", content: "hi" }], stream: true, model: "planner" };
    const response = await rig.post("/v1/chat/completions", body);
    const call = at(0).received[0];
    // Each advance is a sweep: the first sees that nothing is read, the others how long that lasts.
    const cut = eventually("the router gives up", async () => {
      rig.clock.advance(5_000);
      return (await instance("0")).running === 0;
    });
    await call?.aborted;
    await cut;
    await expect(response.text()).rejects.toThrow();
  });

  async function instance(id: string): Promise<InstanceObject> {
    const found = (await rig.get<List<InstanceObject>>("/v1/instances")).data.find((i) => i.id === id);
    if (!found) throw new Error(`no instance ${id}`);
    return found;
  }
});

describe("episodes and budgets", () => {
  test("200 calls at once on a budget that fits 10: ten get in, nobody else reaches an instance", async () => {
    rig = await startRig(
      { sessionsPerInstance: 16, router: { queuePerInstance: 256 }, budgets: { episodeTokens: 250 } },
      1,
    );
    const body = { messages: [{ role: "user", content: "hi" }], max_tokens: 20 };
    const { promise: go, resolve } = Promise.withResolvers<void>();
    at(0).behave = async (call, res) => {
      await go;
      await answerHello(call, res);
    };
    // A stub prompt is counted exactly: 5 tokens of template and text, 20 of completion.
    const calls = Array.from({ length: 200 }, () => rig.post("/v1/chat/completions", body, { "x-episode-id": "e1" }));
    const denied = eventually("all others are denied", async () => {
      const seen = await rig.budget("e1");
      return seen.reserved > 0 && (await metric("llmpool_budget_denials_total")) >= 190 ? seen : undefined;
    });
    expect((await denied).reserved).toBeLessThanOrEqual(250);
    const reached = at(0).received.length;
    resolve();
    const statuses = (await Promise.all(calls)).map((r) => r.status);
    expect(statuses.filter((s) => s === 200)).toHaveLength(10);
    expect(statuses.filter((s) => s === 429)).toHaveLength(190);
    expect(reached).toBe(10);
    await eventually("settled", async () => (await rig.budget("e1")).reserved === 0);
    expect(await rig.budget("e1")).toEqual({ used: 100, reserved: 0 });
  });

  test("a denial says what is left and is not worth a retry; clamp gets what is left", async () => {
    rig = await startRig({ budgets: { episodeTokens: 30 } }, 1);
    const denied = await rig.chat({ max_tokens: 100 }, { "x-episode-id": "e1" });
    expect(denied.status).toBe(429);
    expect(rateLimit(denied)).toEqual(["30", "30", null]);
    expect(denied.headers.get("x-should-retry")).toBe("false");
    expect(await denied.json()).toMatchObject({
      error: { code: "budget_exhausted", message: expect.stringContaining("30 of 30") },
    });
    expect(at(0).received).toEqual([]);
    expect(await messageOf(rig.chat({ max_tokens: 100 }, { "x-episode-id": "e1" }))).toMatch(
      /may take (\d+): lower max_tokens to \d+, or send x-llmpool-budget: clamp$/,
    );
    const clamped = await rig.chat({ max_tokens: 100 }, { "x-episode-id": "e1", "x-llmpool-budget": "clamp" });
    expect(clamped.status).toBe(200);
    expect(rateLimit(clamped)).toEqual(["30", "0", null]);
    expect(at(0).received[0]?.headers["x-llmpool-max-total-tokens"]).toBe("30");
  });

  const rateLimit = ({ headers }: Response) =>
    ["limit", "remaining", "reset"].map((what) => headers.get(`x-ratelimit-${what}-tokens`));

  const messageOf = async (answer: Promise<Response>) =>
    ((await (await answer).json()) as { error: { message: string } }).error.message;

  test("a denial names what helps: the number that it says is admitted, and no number helps a prompt that is too long", async () => {
    rig = await startRig({ budgets: { episodeTokens: 30 } }, 1);
    const headers = { "x-episode-id": "e1" };
    const [, fits] = /lower max_tokens to (\d+),/.exec(await messageOf(rig.chat({ max_tokens: 100 }, headers))) ?? [];
    expect((await rig.chat({ max_tokens: Number(fits) + 1 }, headers)).status).toBe(429);
    expect((await rig.chat({ max_tokens: Number(fits) }, headers)).status).toBe(200);
    const long = { messages: [{ role: "user", content: "one two three ".repeat(20) }], max_tokens: 1 };
    const clamp = { "x-episode-id": "e2", "x-llmpool-budget": "clamp" };
    expect(await messageOf(rig.chat(long, clamp))).toMatch(
      /the prompt alone may count \d+: shorten it, or have the budget raised$/,
    );
  });

  test("an episode that has ended is told by what named it", async () => {
    rig = await startRig({}, 1);
    await rig.chat({}, { "x-session-id": "e1:planner" });
    await rig.post("/v1/episodes/e1/finish", {});
    const again = await rig.chat({}, { "x-session-id": "e1:planner" });
    expect(again.status).toBe(409);
    expect(await again.json()).toMatchObject({
      error: {
        param: "x-session-id",
        message: expect.stringContaining("a session id that ends in a role names the episode"),
      },
    });
  });

  test("an answer shows the budget that leaves least, and when its window ends; none without a budget", async () => {
    rig = await startRig({ budgets: { episodeTokens: 1000, poolTokensPerDay: 500 } }, 1);
    const secondsLeft = 86_400 - ((rig.clock.wall() / 1000) % 86_400);
    const answer = await rig.chat({}, { "x-episode-id": "e1" });
    expect(rateLimit(answer)).toEqual(["500", "476", `${Math.ceil(secondsLeft)}s`]);
    const stream = await rig.chat({ stream: true, max_tokens: 400 }, { "x-episode-id": "e1" });
    expect(rateLimit(stream)).toEqual(["500", "86", `${Math.ceil(secondsLeft)}s`]);
    await stream.text();
    rig = await startRig({}, 1);
    expect(rateLimit(await rig.chat({}, { "x-episode-id": "e1" }))).toEqual([null, null, null]);
  });

  test("the end of an episode cuts off what it runs, and its id stays taken", async () => {
    rig = await startRig({ episodes: { timeoutSeconds: 60, progressExtendSeconds: 0, maxTimeoutSeconds: 60 } }, 1);
    at(0).behave = () => {};
    const running = rig.chat({}, { "x-episode-id": "e1", "x-request-timeout": "170" });
    const call = await eventually("it runs", () => at(0).received[0]);
    at(0).records.set(String(call.headers["x-request-id"]), {
      prompt_tokens: 4,
      completion_tokens: 1,
      cached_tokens: 0,
    });
    rig.clock.advance(60_000);
    const response = await running;
    expect(response.status).toBe(504);
    expect(await response.json()).toMatchObject({ error: { code: "episode_deadline_exceeded" } });
    await call.aborted;
    await eventually("settled", async () => (await rig.budget("e1")).used === 5);
    const again = await rig.chat({}, { "x-episode-id": "e1" });
    expect(again.status).toBe(409);
    expect(again.headers.get("x-should-retry")).toBe("false");
  });

  test("a call that waits for its instance gains the time by which its episode is extended", async () => {
    const episodes = { timeoutSeconds: 60, progressExtendSeconds: 30, maxTimeoutSeconds: 100 };
    rig = await startRig({ episodes, rebindAfterSeconds: 120, requestTimeoutSeconds: 180 }, 1);
    rig.source.set([at(0).endpoint({ state: "Loading" })]);
    const waiting = rig.chat({}, { "x-episode-id": "e1" });
    await eventually("it waits", async () => (await metric("llmpool_queued_requests")) === 1);
    rig.clock.advance(50_000);
    await rig.post("/v1/episodes/e1/progress", { event: "patch" });
    rig.clock.advance(20_000);
    rig.source.set([at(0).endpoint()]);
    expect((await waiting).status).toBe(200);
  });

  test("an episode is created, makes progress, is listed, finished; its events can be read again", async () => {
    rig = await startRig({}, 1);
    const created = await rig.post("/v1/episodes", {
      id: "e1",
      timeout_s: 100,
      extend_s: 10,
      budget_tokens: 500,
      metadata: { who: "me" },
    });
    expect(created.status).toBe(201);
    expect(await created.json()).toMatchObject({
      id: "e1",
      state: "active",
      time_remaining_s: 100,
      budget_tokens: 500,
      metadata: { who: "me" },
    });
    const twice = await rig.post("/v1/episodes", { id: "e1" });
    expect(twice.status).toBe(400);
    rig.clock.advance(10_000);
    await rig.post("/v1/episodes/e1/progress", { event: "patch", detail: "a.ts" });
    const nap = await rig.post("/v1/episodes/e1/progress", { event: "nap" });
    expect(nap.status).toBe(400);
    await rig.chat({ model: "planner" }, { "x-session-id": "e1:planner" });
    expect(await rig.get("/v1/episodes/e1")).toMatchObject({
      time_remaining_s: 90,
      tokens_used: 10,
      sessions: ["e1:planner"],
    });
    const events = await fetch(`${rig.router.url}/v1/episodes/e1/events`, { headers: { "last-event-id": "1" } });
    const finished = await rig.post("/v1/episodes/e1/finish", {});
    expect(await finished.json()).toMatchObject({ state: "ended", end_reason: "finished" });
    const text = await events.text();
    expect(text).not.toContain("event: started");
    expect(text).toMatch(/^id: 2\nevent: progress\ndata: .*"patch"/);
    expect(text).toMatch(/event: ended\ndata: .*"finished".*\n\n$/);
    expect((await rig.get<List<EpisodeObject>>("/v1/episodes")).data).toHaveLength(1);
    const late = await rig.post("/v1/episodes/e1/progress", { event: "patch" });
    expect(late.status).toBe(409);
    expect((await fetch(`${rig.router.url}/v1/episodes/nope`)).status).toBe(404);
  });

  test("a heartbeat line for each active episode, every heartbeatSeconds", async () => {
    rig = await startRig({ episodes: { heartbeatSeconds: 20 } }, 1);
    await rig.chat({ model: "planner" }, { "x-episode-id": "e1" });
    rig.clock.advance(20_000);
    const line = await eventually("a line", () => rig.lines[0]);
    expect(JSON.parse(line)).toMatchObject({
      event: "episode_heartbeat",
      episode_id: "e1",
      tokens_used: 10,
      last_progress: { event: "llm_response" },
      time_remaining_s: 1780,
      state: "active",
      instances: ["0"],
    });
  });

  async function metric(name: string): Promise<number> {
    const text = await (await fetch(`${rig.router.url}/metrics`)).text();
    return Number(new RegExp(`^${name}(?:\\{.*\\})? (\\S+)$`, "m").exec(text)?.[1] ?? 0);
  }
});

test("a router that closes tells of its episodes until its calls have ended, and an episode that ends cuts off its own", async () => {
  rig = await startRig({ episodes: { heartbeatSeconds: 20 } }, 1);
  at(0).behave = () => {};
  const running = rig.chat({}, { "x-episode-id": "e1" });
  await eventually("it runs", () => at(0).received[0]);
  const events = await fetch(`${rig.router.url}/v1/episodes/e1/events`);
  const closed = rig.router.close(60_000);
  expect(await events.text()).toContain("event: started");
  rig.clock.advance(20_000);
  expect(await eventually("a line", () => rig.lines[0])).toContain("episode_heartbeat");
  await rig.store.endEpisode("", "e1", "cancelled");
  expect(await (await running).json()).toMatchObject({ error: { code: "episode_ended" } });
  await at(0).received[0]?.aborted;
  rig.clock.advance(60_000);
  await closed;
});

test("a second close without a grace waits for no call", async () => {
  rig = await startRig({ rebindAfterSeconds: 30 }, 1);
  at(0).behave = () => {};
  const running = rig.chat({}, { "x-episode-id": "e1" });
  await eventually("it runs", () => at(0).received[0]);
  rig.source.set([at(0).endpoint({ state: "Failed" })]);
  const waiting = rig.chat({});
  await eventually("it waits", () => rig.router.instances()[0]?.queued === 1);
  const cut = Promise.allSettled([running, waiting]);
  const first = rig.router.close(60_000);
  await Promise.all([rig.router.close(), first]);
  expect((await cut).map(({ status }) => status)).toEqual(["rejected", "rejected"]);
});

test("a router that closes lets calls end within the grace, and settles them", async () => {
  rig = await startRig({}, 1);
  const { promise: go, resolve } = Promise.withResolvers<void>();
  at(0).behave = async (call, res) => {
    await go;
    await answerHello(call, res);
  };
  const running = rig.chat({}, { "x-episode-id": "e1" });
  await eventually("it runs", () => at(0).received[0]);
  const closed = rig.router.close(60_000);
  await expect(fetch(`${rig.router.url}/healthz`)).rejects.toThrow();
  resolve();
  expect((await running).status).toBe(200);
  await closed;
  expect((await rig.store.openReservations()).length).toBe(0);
  expect((await rig.store.episode("", "e1"))?.tokensUsed).toBe(10);
});
