import { expect, test } from "vitest";
import { poolPlan } from "../../test/support/pool.ts";
import { identify, ownerOf, sessionKey } from "./identify.ts";

const plan = poolPlan({
  instances: 5,
  roles: [{ name: "planner", instance: 0 }, { name: "coder" }, { name: "critic" }],
});

const row = (name: string, headers: Record<string, string>, body: object, want: object) => ({
  name,
  headers,
  body,
  want,
});

test.each([
  row("a role in model", {}, { model: "planner" }, { role: "planner" }),
  row("case does not matter, a tag is ignored", {}, { model: "Planner:latest" }, { role: "planner" }),
  row("pool/role", {}, { model: "Apex/coder" }, { role: "coder" }),
  row("metadata.role before model", {}, { model: "stub", metadata: { role: "critic" } }, { role: "critic" }),
  row(
    "a metadata.role that is none is no role",
    {},
    { model: "planner", metadata: { role: "boss" } },
    { role: "planner" },
  ),
  row("the header before the body", { "x-llmpool-role": "CODER" }, { model: "planner" }, { role: "coder" }),
  row("an agent id that is a role", { "x-agent-id": "coder" }, {}, { role: "coder" }),
  row("an agent id that begins with one", { "x-agent-id": "coder:3" }, {}, { agent: "coder:3" }),
  row("any other agent id", { "x-agent-id": "tester" }, { model: "planner" }, { agent: "tester" }),
  row("a served model", {}, { model: "stub" }, { model: "stub" }),
  row("the first of the session headers", { "session-id": "b", "x-session-id": "a" }, {}, { sessionId: "a" }),
  row("a coding agent's own header", { "x-claude-code-session-id": "c" }, {}, { sessionId: "c" }),
  row(
    "an episode in the session id",
    {},
    { metadata: { session_id: "ep1:planner" } },
    { sessionId: "ep1:planner", episodeId: "ep1", episodeFrom: "metadata.session_id" },
  ),
  row("not when the end is no role", {}, { metadata: { session_id: "ep1:boss" } }, { sessionId: "ep1:boss" }),
  row(
    "the episode header wins",
    { "x-episode-id": "e2", "x-session-id": "ep1:planner" },
    {},
    { sessionId: "ep1:planner", episodeId: "e2", episodeFrom: "x-episode-id" },
  ),
  row("an instance", { "x-llmpool-instance": "3" }, {}, { instance: "3" }),
  row("the SDK's own timeout", { "x-stainless-timeout": "600" }, {}, { timeoutMs: 600_000 }),
  row("our timeout before it", { "x-request-timeout": "1.5", "x-stainless-timeout": "600" }, {}, { timeoutMs: 1500 }),
  row("clamp", { "x-llmpool-budget": "clamp" }, {}, { clampBudget: true }),
])("reads $name", ({ headers, body, want }) => {
  const { role, instance, ...rest } = identify(plan, headers, body);
  const got = { ...rest, ...(role && { role: role.name }), ...(instance && { instance: instance.id }) };
  expect(got).toEqual({ clampBudget: false, ...want });
});

const refusal = (
  name: string,
  headers: Record<string, string>,
  body: object,
  code: string,
  param: string,
  says: string,
) => ({
  name,
  headers,
  body,
  want: { code, param, message: expect.stringContaining(says) },
});

test.each([
  refusal(
    "an unknown role",
    { "x-llmpool-role": "boss" },
    {},
    "invalid_request",
    "x-llmpool-role",
    "planner, coder, critic",
  ),
  refusal("an unknown model", {}, { model: "gpt-9" }, "not_found", "model", "planner, coder, critic"),
  refusal("another pool's role", {}, { model: "other/planner" }, "not_found", "model", "stub"),
  refusal(
    "an unknown instance",
    { "x-llmpool-instance": "9" },
    {},
    "invalid_request",
    "x-llmpool-instance",
    "0, 1, 2, 3, 4",
  ),
  refusal("a misspelt header", { "x-llmpool-rol": "coder" }, {}, "invalid_request", "x-llmpool-rol", "x-llmpool-role"),
  refusal(
    "a header of answers",
    { "x-llmpool-session": "s" },
    {},
    "invalid_request",
    "x-llmpool-session",
    "use x-session-id",
  ),
  refusal("a bad id", { "x-session-id": "a b" }, {}, "invalid_request", "x-session-id", "letters"),
  refusal("a header that came twice", { "x-session-id": "a, b" }, {}, "invalid_request", "x-session-id", "letters"),
  refusal("an id that is too long", { "x-episode-id": "a".repeat(129) }, {}, "invalid_request", "x-episode-id", "128"),
  refusal("a timeout of nothing", { "x-request-timeout": "0" }, {}, "invalid_request", "x-request-timeout", "above 0"),
  refusal(
    "a timeout that is no number",
    { "x-request-timeout": "soon" },
    {},
    "invalid_request",
    "x-request-timeout",
    "soon",
  ),
  refusal(
    "metadata that is not text",
    {},
    { metadata: { session_id: 1 } },
    "invalid_request",
    "metadata.session_id",
    "string",
  ),
  refusal("another budget word", { "x-llmpool-budget": "yes" }, {}, "invalid_request", "x-llmpool-budget", "clamp"),
])("refuses $name", ({ headers, body, want }) => {
  expect(() => identify(plan, headers, body)).toThrow(expect.objectContaining(want));
});

test("takes what /v1/generate says at its top, headers first", () => {
  const body = { role: "coder", session_id: "s", episode_id: "e", instance_id: "2", timeout_s: 1.5 };
  const identity = identify(plan, {}, {}, body);
  expect(identity).toMatchObject({
    role: { name: "coder" },
    instance: { id: "2" },
    sessionId: "s",
    episodeId: "e",
    timeoutMs: 1500,
  });
  expect(identify(plan, { "x-session-id": "h", "x-request-timeout": "9" }, {}, body)).toMatchObject({
    sessionId: "h",
    timeoutMs: 9000,
  });
});

test("no choice of names makes two sessions one", () => {
  expect(sessionKey("a", "bc", "d")).not.toBe(sessionKey("ab", "c", "d"));
  expect(sessionKey("", "a", "bc")).not.toBe(sessionKey("", "ab", "c"));
});

test("a session of another model than the default variant's is another session", () => {
  const two = poolPlan({
    model: { uri: "file:///general.gguf" },
    instances: 1,
    variants: [{ name: "code", model: { uri: "file:///qwen.gguf" }, instances: 1 }],
    backend: "llama-cpp",
  });
  const owner = (model: string) => ownerOf(identify(two, { "x-session-id": "s" }, { model }));
  expect([owner("general"), owner("qwen")]).toEqual(["", "model:qwen"]);
  expect(ownerOf(identify(two, { "x-session-id": "s" }, {}))).toBe("");
});
