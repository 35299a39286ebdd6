import { expect, test } from "vitest";
import { type Client, errorOf } from "./client.ts";
import { MALFORMED } from "./malformed.ts";
import { type ConformanceOptions, hello, newId } from "./shared.ts";

/** What is refused, and in which words. */
export function limitTests(client: () => Client, { contextTokens, longPrompt }: ConformanceOptions): void {
  test.each(MALFORMED)("refuses $name", async ({ path, body, status, code, param }) => {
    const response = await client().post(path, body);
    const error = await errorOf(response);
    expect(error).toMatchObject({ status, code, ...(param !== undefined && { param }) });
  });

  test.each([
    ["x-request-id", "no spaces allowed"],
    ["x-request-id", "x".repeat(129)],
    ["x-llmpool-timeout-ms", "-1"],
    ["x-llmpool-timeout-ms", "1e3"],
    ["x-llmpool-max-total-tokens", "ten"],
    ["x-llmpool-session", "a b"],
  ])("refuses the header %s: %s", async (header, value) => {
    const response = await client().fetch("/v1/chat/completions", {
      method: "POST",
      body: JSON.stringify(hello),
      headers: { [header]: value },
    });
    expect(await errorOf(response)).toMatchObject({ status: 400, code: "invalid_request", param: header });
  });

  test("refuses a body that is not UTF-8", async () => {
    const body = Buffer.from('{"messages": [{"role": "user", "content": "\xff"}]}', "latin1");
    const response = await client().fetch("/v1/chat/completions", { method: "POST", body: new Uint8Array(body) });
    expect(await errorOf(response)).toMatchObject({ status: 400, code: "invalid_request" });
  });

  test("a prompt beyond the context is refused, never cut", async () => {
    const content = "word ".repeat(contextTokens + 10);
    const error = await errorOf(await client().post("/v1/chat/completions", { messages: [{ role: "user", content }] }));
    expect(error).toMatchObject({ status: 400, code: "context_length_exceeded", usage: { completion_tokens: 0 } });
  });

  test("a reservation is a hard limit: refused before prefill without room, else cut at it", async () => {
    const { prompt_tokens } = (await client().chat(hello)).usage;
    const id = newId();
    const refused = await client().post("/v1/chat/completions", hello, { id, maxTotalTokens: prompt_tokens });
    expect(await errorOf(refused)).toMatchObject({ status: 429, code: "budget_exhausted" });
    expect(refused.headers.get("x-should-retry")).toBe("false");
    expect(await client().record(id)).toMatchObject({ done: true, prompt_tokens: 0, completion_tokens: 0 });
    const cut = await client()
      .stream("/v1/completions", { prompt: longPrompt, temperature: 0 }, { maxTotalTokens: 0 })
      .catch(String);
    expect(cut).toContain("budget_exhausted");
    const free = await client().stream("/v1/completions", { prompt: longPrompt, temperature: 0, max_tokens: 1 });
    const limit = (free.usage?.prompt_tokens ?? 0) + 3;
    const exact = await client().stream(
      "/v1/completions",
      { prompt: longPrompt, temperature: 0, max_tokens: 20 },
      { maxTotalTokens: limit },
    );
    expect(exact).toMatchObject({ finishReason: "length", usage: { completion_tokens: 3 } });
  });

  test("one id is one usage: a second request with it is refused", async () => {
    const id = newId();
    await client().chat(hello, { id });
    expect(await errorOf(await client().post("/v1/chat/completions", hello, { id }))).toMatchObject({
      status: 400,
      param: "x-request-id",
    });
  });

  test("an id that was answered as unknown stays unused", async () => {
    const id = newId();
    expect((await client().fetch(`/internal/requests/${id}`)).status).toBe(404);
    expect(await errorOf(await client().post("/v1/chat/completions", hello, { id }))).toMatchObject({
      status: 400,
      param: "x-request-id",
    });
  });
}
