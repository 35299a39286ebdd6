import { join } from "node:path";
import { PassThrough } from "node:stream";
import { load } from "js-yaml";
import { beforeEach, describe, expect, test } from "vitest";
import { type CliWorld, cli, type Said } from "../../../test/support/cli.ts";
import { eventually } from "../../../test/support/eventually.ts";
import { type Answer, type FakeWeb, json, status } from "../../../test/support/fake-web.ts";
import { fakeWeb } from "../../../test/support/resolve.ts";
import { Screen } from "../../../test/support/screen.ts";
import { tempDir } from "../../../test/support/temp-dir.ts";
import { claimStateDir } from "../../dev/run-file.ts";

const CHAT = "/v1/chat/completions";
const instance = (id: string, roles: string[], fields: object = {}) => ({
  object: "instance",
  id,
  variant: "default",
  state: "Ready",
  roles,
  queued: 0,
  running: 0,
  sessions: 1,
  tokens_per_second: 61.4,
  restarts: 0,
  device: "CPU",
  message: null,
  pid: 4242,
  ...fields,
});
const list = (data: object[]) => json({ object: "list", data });
const two = list([
  instance("0", ["planner", "critic"]),
  instance("1", ["coder"], { state: "Failed", message: "OutOfMemory: 2 GiB" }),
]);

let web: FakeWeb;
let world: CliWorld;
beforeEach(async () => {
  web = await fakeWeb();
  web.on("/v1/instances", two);
  world = { env: { LLMPOOL_URL: web.url("") } };
});

describe("status", () => {
  test("shows the pool, its instances and their roles", async () => {
    expect(await cli(["status"], world)).toEqual({
      out: [
        `pool at ${web.url("")}: 1 of 2 instances ready`,
        "INSTANCE  STATE   ROLES           DEVICE  SESSIONS  QUEUE  TOK/S  RESTARTS  MESSAGE",
        "0         Ready   planner,critic  CPU            1      0     61         0",
        "1         Failed  coder           CPU            1      0     61         0  OutOfMemory: 2 GiB",
        "",
      ].join("\n"),
      err: "",
      code: 0,
    });
  });

  test("by name, where no cluster is known, tells of the pool that runs here", async () => {
    const cwd = await tempDir();
    const claim = claimStateDir(join(cwd, ".llmpool"), "apex");
    const none = ["status", "apex", "--kubeconfig", "none"];
    const { err, code } = await cli(none, { cwd });
    claim.release();
    expect({ err, code }).toEqual({ code: 1, err: expect.stringMatching(/none.*; pool apex runs here, which status/) });
    expect((await cli(none, { cwd })).err).not.toContain("runs here");
  });

  test("gives programs all of it", async () => {
    const { out } = await cli(["status", "-o", "yaml"], world);
    expect(load(out)).toMatchObject({
      url: web.url(""),
      ready: 1,
      instances: [{ id: "0" }, { id: "1", message: "OutOfMemory: 2 GiB" }],
      roles: [
        { name: "planner", instances: ["0"] },
        { name: "critic", instances: ["0"] },
        { name: "coder", instances: ["1"] },
      ],
    });
    expect((await cli(["status", "-o", "name"], world)).out).toBe("0\n1\n");
  });

  test("on a terminal is no wider than it, unless asked", async () => {
    const { terminal } = new Screen(60, 20, false);
    const screen = { terminal, keys: new PassThrough() };
    const narrow = await cli(["status"], { ...world, screen });
    expect(
      narrow.out
        .split("\n")
        .slice(1)
        .every((line) => line.length <= 60),
    ).toBe(true);
    expect((await cli(["status", "-o", "wide"], { ...world, screen })).out).toContain("OutOfMemory: 2 GiB");
  });

  test("--watch follows changes until it is interrupted", async () => {
    const abort = new AbortController();
    const said: Said = { out: "", err: "", code: 0 };
    const done = cli(["status", "--watch"], { ...world, said, signal: abort.signal });
    await eventually("the first state", () => said.out.includes("instance 1: Failed (pid 4242, OutOfMemory: 2 GiB)\n"));
    web.on("/v1/instances", list([instance("0", ["planner"]), instance("1", ["coder"])]));
    await eventually("the change", () => said.out.includes("instance 1: Ready (pid 4242)\n"));
    abort.abort(new Error("interrupted"));
    expect(await done).toMatchObject({ err: "", code: 0 });
  });
});

test("a refusal is the router's own sentence; of a key it says where that comes from", async () => {
  const error = { message: "no key", type: "authentication_error", code: "unauthorized", param: null };
  web.on("/v1/instances", json({ error }, "application/json", 401));
  expect(await cli(["status"], world)).toEqual({ out: "", err: "llmpool: no key; set LLMPOOL_API_KEY\n", code: 1 });
  for (const command of ["status", "chat", "sessions", "episodes"])
    expect((await cli([command, "--help"])).out).toContain("LLMPOOL_API_KEY");
});

describe("sessions", () => {
  test("lists them, or says that there are none", async () => {
    const session = { object: "session", id: "s1", role: "planner", instance_id: "0", episode_id: null };
    const last_used_at = new Date(Date.now() - 3_700_000).toISOString();
    web.on("/v1/sessions", list([{ ...session, last_used_at }]));
    expect((await cli(["sessions"], world)).out).toMatch(
      /^SESSION +ROLE +INSTANCE +EPISODE +IDLE\ns1 +planner +0 +- +1h1m\n$/,
    );
    expect((await cli(["sessions", "list", "-o", "wide"], world)).out).toContain(last_used_at);
    web.on("/v1/sessions", list([]));
    expect(await cli(["sessions"], world)).toEqual({ out: "", err: "there are no sessions\n", code: 0 });
    expect((await cli(["sessions", "-o", "json"], world)).out).toBe("[]\n");
  });

  test("deletes several, and stops at the first that does not exist", async () => {
    web.on("/v1/sessions/a", json({}));
    const error = { message: 'no session "b"', type: "x", code: "not_found", param: "id" };
    web.on("/v1/sessions/b", json({ error }, "application/json", 404));
    expect(await cli(["sessions", "delete", "a", "b"], world)).toEqual({
      out: "session/a deleted\n",
      err: 'llmpool: no session "b"\n',
      code: 1,
    });
  });
});

describe("episodes", () => {
  const now = Date.now();
  const episode = {
    object: "episode",
    id: "ep1",
    state: "active",
    end_reason: null,
    started_at: new Date(now - 600_000).toISOString(),
    deadline: new Date(now + 1_200_000).toISOString(),
    time_remaining_s: 1200,
    extensions: 2,
    tokens_used: 10,
    tokens_reserved: 5,
    budget_tokens: 100,
    last_progress: { event: "patch", at: new Date(now - 30_000).toISOString() },
    sessions: ["s1", "s2"],
    metadata: {},
  };

  test("lists them with what is left of time and tokens", async () => {
    const ended = { ...episode, id: "ep2", state: "ended", end_reason: "deadline", budget_tokens: null };
    web.on("/v1/episodes", list([episode, ended]));
    const [head, first, second] = (await cli(["episodes"], world)).out.split("\n");
    expect(head).toMatch(/^EPISODE +STATE +LEFT +TOKENS +PROGRESS +AGE$/);
    expect(first).toMatch(/^ep1 +active +20m +10\/100 +patch 3\ds ago +10m$/);
    expect(second).toMatch(/^ep2 +deadline +- +10 +patch 3\ds ago +10m$/);
    expect((await cli(["episodes", "list", "-o", "wide"], world)).out).toContain("s1,s2");
  });

  test("shows, finishes and cancels them", async () => {
    web.on("/v1/episodes/ep1", json(episode));
    web.on("/v1/episodes/ep1/finish", json(episode));
    expect(JSON.parse((await cli(["episodes", "show", "ep1", "-o", "json"], world)).out)).toEqual(episode);
    expect((await cli(["episodes", "finish", "ep1"], world)).out).toBe("episode/ep1 finished\n");
    expect((await cli(["episodes", "cancel", "ep1"], world)).out).toBe("episode/ep1 cancelled\n");
    expect(web.seen.map(({ method }) => method)).toEqual(["GET", "POST", "DELETE"]);
  });

  test("tells the story of one from its journal, page by page, and gives programs its lines", async () => {
    const start = Date.parse(episode.started_at);
    const at = (ms: number) => ({ episode_id: "ep1", at: new Date(start + ms).toISOString() });
    const of = { request: "req_0000000194cb37f46029072496ceb138", instance: "0", reserved: 30 };
    const budget = { scope: "episode", id: "ep1", limit: 100, spent: 75, reserved: 0 };
    const pages = [
      [
        { event: "start", seq: 1, ...at(0), timeout_s: 1800, max_timeout_s: 3600, budget_tokens: 100 },
        { event: "admit", seq: 2, ...at(1200), ...of, role: "planner", session: "s1" },
        { event: "rebind", seq: 3, ...at(2000), request: of.request, from: "0", to: "1", session: "s1" },
        { event: "settle", seq: 4, ...at(3000), ...of, used: 25, prompt: 20, completion: 5, cached: 10 },
      ],
      [
        { event: "deny", seq: 5, ...at(4000), ...budget, asked: 30, role: "coder", count: 3 },
        { event: "extend", seq: 6, ...at(300_000), extensions: 1, time_remaining_s: 130, cause: "patch" },
        { event: "admit", seq: 7, ...at(310_000), ...of, request: "req_b" },
        { event: "settle", seq: 8, ...at(311_000), ...of, request: "req_b", used: 0 },
        { event: "expire", seq: 9, ...at(500_000), reason: "deadline", tokens_used: 25 },
      ],
    ];
    web.on("/v1/episodes/ep1", json(episode));
    for (const [after, page] of [
      [0, pages[0]],
      [4, pages[1]],
      [9, []],
    ] as const) {
      web.on(`/v1/episodes/ep1/audit?after=${after}`, list([...(page ?? [])]));
    }
    expect((await cli(["episodes", "show", "ep1"], world)).out.split("\n")).toEqual([
      `episode ep1, begun ${episode.started_at}: 20m left; 10 of 100 tokens used, 5 reserved`,
      "  +0.0s   began: 30m, with progress up to 1h, 100 tokens",
      "  +1.2s   planner admitted to instance 0, session s1: 30 tokens reserved [req_0000000194cb37f4]",
      "  +2.0s   planner moved from instance 0 to 1, session s1 [req_0000000194cb37f4]",
      "  +3.0s   planner used 25 of 30 tokens (prompt 20, of it cached 10, completion 5) [req_0000000194cb37f4]",
      "  +4.0s   coder denied 3 times: 30 tokens asked; episode budget ep1: 100, spent 75, reserved 0",
      "  +5m     extended by patch, 2m10s left (1)",
      "  +5m10s  a request admitted to instance 0: 30 tokens reserved [req_b]",
      "  +5m11s  a request used nothing of 30 tokens [req_b]",
      "  +8m20s  expired (deadline): 25 tokens used",
      "",
    ]);
    const { out } = await cli(["episodes", "show", "ep1", "-o", "jsonl"], world);
    const lines = out.trimEnd().split("\n");
    expect(lines.map((line) => JSON.parse(line))).toEqual(pages.flat());
    expect((await cli(["episodes", "show", "ep1", "-o", "name"], world)).code).toBe(2);
  });

  test("follows events until the end", async () => {
    const events = [
      { event: "patch", episode_id: "ep1", at: "2026-01-01T00:00:00.000Z", tokens: 3 },
      { event: "ended", episode_id: "ep1", at: "2026-01-01T00:00:01.000Z", reason: "finished" },
    ];
    const text = events
      .map((e, i) => `id: ${i + 1}\nevent: ${i ? "ended" : "progress"}\ndata: ${JSON.stringify(e)}\n\n`)
      .join("");
    web.on("/v1/episodes/ep1/events", (_, response) => response.end(text));
    expect((await cli(["episodes", "events", "ep1"], world)).out).toBe(
      "2026-01-01T00:00:00.000Z  patch  tokens=3\n2026-01-01T00:00:01.000Z  ended  reason=finished\n",
    );
    const { out } = await cli(["episodes", "events", "ep1", "-o", "json"], world);
    expect(
      out
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line)),
    ).toEqual(events);
  });
});

describe("chat", () => {
  function answers(...texts: string[]): Answer {
    return (_, response) => {
      response.writeHead(200, {
        "content-type": "text/event-stream",
        "x-llmpool-instance": "0",
        "x-llmpool-queue-ms": "1500",
      });
      response.write(": prefill\n\n");
      for (const content of texts) response.write(`data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`);
      const usage = {
        prompt_tokens: 9,
        completion_tokens: 2,
        total_tokens: 11,
        prompt_tokens_details: { cached_tokens: 7 },
      };
      response.end(
        `data: ${JSON.stringify({ choices: [{ delta: {}, finish_reason: "stop" }], usage })}\n\ndata: [DONE]\n\n`,
      );
    };
  }
  const asked = (index: number) => JSON.parse(web.asked(CHAT).at(index)?.body ?? "{}");

  test("answers one question of the command line, or of a pipe, as a one-off", async () => {
    web.on(CHAT, answers("Two ", "steps."));
    expect(await cli(["chat", "--role", "Coder", "plan", "it"], world)).toEqual({
      out: "Two steps.\n",
      err: "",
      code: 0,
    });
    expect(await cli(["chat"], { ...world, stdin: "a long\nquestion\n" })).toMatchObject({ out: "Two steps.\n" });
    expect(web.asked(CHAT).map(({ headers }) => [headers["x-agent-id"], headers["x-session-id"]])).toEqual([
      ["coder", undefined],
      ["planner", undefined],
    ]);
    expect([asked(0).messages, asked(1).messages]).toEqual([
      [{ role: "user", content: "plan it" }],
      [{ role: "user", content: "a long\nquestion" }],
    ]);
  });

  test("-v says where the answer came from, on standard error", async () => {
    web.on(CHAT, answers("Yes."));
    const { out, err } = await cli(["chat", "-v", "--session", "s1", "--max-tokens", "5", "?"], world);
    expect(out).toBe("Yes.\n");
    expect(err).toMatch(
      /^\(prefill\)\n\(session s1 on instance 0: 9 prompt tokens, 7 of them cached, 2 new in \d+\.\d s, 1\.5 s queued\)\n$/,
    );
    expect(asked(0)).toMatchObject({ max_completion_tokens: 5 });
  });

  test("refuses a role that does not exist, and nothing to ask", async () => {
    expect(await cli(["chat", "--role", "boss", "?"], world)).toEqual({
      out: "",
      err: 'llmpool: there is no role "boss"; the pool has planner, critic, coder\n',
      code: 2,
    });
    const env = { ...world.env, npm_lifecycle_event: "llmpool" };
    const { err, code } = await cli(["chat"], { env });
    expect({ err, code }).toEqual({
      code: 2,
      err: expect.stringContaining("nothing to ask: write npm run llmpool -- "),
    });
  });

  test("a key that may not look asks the role that it names", async () => {
    const error = { message: 'lacks the scope "read"', type: "x", code: "forbidden", param: null };
    web.on("/v1/instances", json({ error }, "application/json", 403));
    web.on(CHAT, answers("Yes."));
    expect(await cli(["chat", "--role", "Coder", "?"], world)).toEqual({ out: "Yes.\n", err: "", code: 0 });
    expect(web.asked(CHAT)[0]?.headers["x-agent-id"]).toBe("coder");
    expect(await cli(["chat", "?"], world)).toMatchObject({ code: 2, err: /"read": name the role with --role/ });
  });

  test.each(["--session", "--episode"])("%s is checked by its own name", async (flag) => {
    expect(await cli(["chat", flag, "a b", "?"], world)).toMatchObject({
      code: 2,
      err: expect.stringMatching(`^llmpool: ${flag} must be 1 to 128 characters`),
    });
  });

  test("ends what was printed before an error with a line end", async () => {
    web.on(CHAT, (_, response) => {
      response.write('data: {"choices":[{"delta":{"content":"Half"}}]}\n\n');
      response.end('data: {"error":{"message":"gone","code":"upstream_error"}}\n\n');
    });
    expect(await cli(["chat", "?"], world)).toEqual({ out: "Half\n", err: "llmpool: gone\n", code: 1 });
  });

  describe("on a terminal", () => {
    function person() {
      const screen = new Screen(80, 24, false);
      const keys = new PassThrough();
      const said: Said = { out: "", err: "", code: 0 };
      const done = cli(["chat"], { ...world, said, screen: { terminal: screen.terminal, keys } });
      return { screen, keys, said, done };
    }

    test("keeps the conversation in one session, sends all of it each time, and frees it at the end", async () => {
      web.on(CHAT, answers("One."), answers("Two."));
      let freed = "";
      const { keys, said, done } = person();
      keys.write("first\r");
      await eventually("the first answer", () => said.out.includes("One.\n"));
      keys.write("second\r");
      await eventually("the second answer", () => said.out.includes("Two.\n"));
      const session = String(web.asked(CHAT)[0]?.headers["x-session-id"]);
      web.on(`/v1/sessions/${session}`, (_, response) => {
        freed = session;
        response.end("{}");
      });
      keys.write("\x04");
      expect(await done).toMatchObject({ code: 0 });
      expect(web.asked(CHAT)[1]?.headers["x-session-id"]).toBe(session);
      expect(freed).toBe(session);
      expect(asked(1).messages).toEqual([
        { role: "user", content: "first" },
        { role: "assistant", content: "One." },
        { role: "user", content: "second" },
      ]);
    });

    test("Ctrl-C stops an answer, an error is a line, and the conversation goes on without either", async () => {
      let closed = false;
      const stuck: Answer = (_, response) => {
        response.write('data: {"choices":[{"delta":{"content":"Endless"}}]}\n\n');
        response.on("close", () => (closed = true));
      };
      const error = { message: "spent", code: "budget_exhausted" };
      web.on(CHAT, stuck, json({ error }, "application/json", 429), answers("Fine."));
      const { keys, said, done } = person();
      keys.write("first\r");
      await eventually("the endless answer", () => said.out.includes("Endless"));
      keys.write("\x03");
      await eventually("it to stop", () => said.err.includes("(stopped)\n") && closed);
      keys.write("second\r");
      await eventually("the denial", () => said.err.includes("budget_exhausted: spent\n"));
      keys.write("third\r");
      await eventually("the good answer", () => said.out.includes("Fine.\n"));
      keys.write("\x03");
      expect(await done).toMatchObject({ code: 0 });
      expect(asked(2).messages).toEqual([{ role: "user", content: "third" }]);
    });

    test("Ctrl-D while an answer comes makes it the last one", async () => {
      let go = () => {};
      web.on(CHAT, (_, response) => {
        response.write('data: {"choices":[{"delta":{"content":"Slow"}}]}\n\n');
        const usage = '{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}';
        go = () => response.end(`data: {"choices":[{"finish_reason":"stop"}],"usage":${usage}}\n\ndata: [DONE]\n\n`);
      });
      const { keys, said, done } = person();
      keys.write("first\r");
      await eventually("the answer to begin", () => said.out.includes("Slow"));
      keys.end("\x04");
      await eventually("the end of the input", () => keys.isPaused());
      go();
      expect(await done).toMatchObject({ out: "Slow\n", code: 0 });
      expect(said.err).toBe("talking to planner; Ctrl-D ends\n");
    });

    test("what a model writes does not steer the screen", async () => {
      web.on(CHAT, answers("\x1b[2J\x1b]0;evil\x07", "text\n"));
      const { keys, said, done } = person();
      keys.write("first\r");
      await eventually("the answer", () => said.out.includes("text\n"));
      keys.end("\x04");
      await done;
      expect(said.out).toBe("[2J]0;eviltext\n\n");
    });
  });
});

test("a router that answers a page is an error, not a crash", async () => {
  web.on("/v1/instances", status(200));
  expect(await cli(["status"], world)).toMatchObject({ code: 1, err: /^llmpool: .+\n$/ });
});
