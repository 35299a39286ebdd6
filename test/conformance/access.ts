import { expect, test } from "vitest";
import { type Client, errorOf } from "./client.ts";
import { type ConformanceOptions, hello, newId } from "./shared.ts";

/** Who may call what, and who answers. */
export function accessTests(client: () => Client, { logprobs }: ConformanceOptions): void {
  test.each([
    ["POST", "/v1/chat/completions"],
    ["POST", "/v1/completions"],
    ["GET", "/v1/models"],
    ["GET", "/internal/requests/x"],
    ["POST", "/internal/drain"],
    ["DELETE", "/internal/sessions/x"],
    ["POST", "/internal/sessions/x/export"],
    ["POST", "/internal/sessions/x/import"],
    ["GET", "/metrics"],
    ["GET", "/none"],
  ])("%s %s needs the token", async (method, path) => {
    for (const authorization of ["", "Bearer", "Bearer wrong", "Basic dG9rZW4="]) {
      const response = await client().fetch(path, { method, headers: { authorization } });
      expect(await errorOf(response)).toMatchObject({ status: 401, code: "unauthorized" });
    }
  });

  test("probes need no token and say who answers", async () => {
    const response = await client().fetch("/healthz", { headers: { authorization: "" } });
    expect(await response.json()).toMatchObject({
      id: expect.any(String),
      boot: expect.any(String),
      uptime_s: expect.any(Number),
    });
    const ready = await client().fetch("/readyz", { headers: { authorization: "" } });
    expect(ready.status).toBe(200);
    expect(await ready.json()).toEqual({
      state: "Ready",
      device: expect.stringMatching(/./),
      warmup_s: expect.any(Number),
      tokens_per_second: expect.any(Number),
      ...(logprobs && { logprobs: true, decode: expect.any(String) }),
    });
  });

  test("unknown paths and wrong methods are refused by name", async () => {
    expect(await errorOf(await client().fetch("/v2/models"))).toMatchObject({ status: 404, code: "not_found" });
    const wrong = await client().fetch("/v1/chat/completions");
    expect(wrong.headers.get("allow")).toBe("POST");
    expect(await errorOf(wrong)).toMatchObject({ status: 405, code: "method_not_allowed" });
  });

  test("lists its model", async () => {
    const list = (await (await client().fetch("/v1/models")).json()) as { data: { id: string }[] };
    expect(list).toMatchObject({ object: "list", data: [{ object: "model", id: expect.any(String) }] });
    const answer = await client().chat(hello);
    expect(answer.model).toBe(list.data[0]?.id);
  });

  test("a request that was never seen is unknown, with who says so", async () => {
    const response = await client().fetch(`/internal/requests/${newId()}`);
    expect(response.status).toBe(404);
    expect(await response.json()).toMatchObject({
      error: { code: "not_found" },
      boot: expect.any(String),
      uptime_s: expect.any(Number),
    });
  });
}
