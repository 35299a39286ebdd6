import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { type Client, errorOf, metricsOf } from "./client.ts";
import { type ConformanceOptions, newId, type Target } from "./shared.ts";

/** The KV caches of sessions: warm turns, moves, ends, isolation. */
export function sessionTests(
  client: () => Client,
  target: () => Target,
  { sessions, recall, longPrompt }: ConformanceOptions,
): void {
  const story = "Remember this list: apples, pears, plums, cherries, grapes, lemons, limes, figs, dates and kiwis.";
  const turns = (...contents: string[]) =>
    contents.map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content }));
  const ask = (messages: object[], session: string) =>
    client().chat({ messages, max_tokens: 8, temperature: 0 }, { session });

  test("a second turn evaluates only what is new, and answers as if it had evaluated all", async () => {
    const session = newId();
    const first = await ask(turns(story), session);
    const answer = first.choices[0].message.content ?? "";
    const messages = turns(story, answer, "And now?");
    const second = await ask(messages, session);
    const alone = await ask(messages, newId());
    expect(first.usage.prompt_tokens_details.cached_tokens).toBe(0);
    // All but the template's last marks, which an answer may replace.
    expect(second.usage.prompt_tokens_details.cached_tokens).toBeGreaterThanOrEqual(first.usage.prompt_tokens - 8);
    expect(second.usage.prompt_tokens_details.cached_tokens).toBeLessThan(second.usage.prompt_tokens);
    expect(alone.usage).toMatchObject({
      prompt_tokens: second.usage.prompt_tokens,
      prompt_tokens_details: { cached_tokens: 0 },
    });
    expect(second.choices[0].message.content).toBe(alone.choices[0].message.content);
  });

  test("a one-off leaves nothing and finds nothing", async () => {
    await client().chat({ messages: turns(story), max_tokens: 4 });
    expect(
      (await client().chat({ messages: turns(story), max_tokens: 4 })).usage.prompt_tokens_details.cached_tokens,
    ).toBe(0);
  });

  test("a deleted session starts cold; deleting nothing is not_found", async () => {
    const session = newId();
    await ask(turns(story), session);
    expect((await client().fetch(`/internal/sessions/${session}`, { method: "DELETE" })).status).toBe(200);
    expect((await ask(turns(story), session)).usage.prompt_tokens_details.cached_tokens).toBe(0);
    await client().fetch(`/internal/sessions/${session}`, { method: "DELETE" });
    const again = await client().fetch(`/internal/sessions/${session}`, { method: "DELETE" });
    expect(await errorOf(again)).toMatchObject({ status: 404, code: "not_found" });
  });

  test("a session moves: export, import, next turn warm", async () => {
    const [from, to] = [newId(), newId()];
    const first = await ask(turns(story), from);
    const exported = await client().post(`/internal/sessions/${from}/export`, "");
    expect(exported.status).toBe(200);
    const bytes = new Uint8Array(await exported.arrayBuffer());
    const imported = await client().fetch(`/internal/sessions/${to}/import`, { method: "POST", body: bytes });
    expect(imported.status).toBe(200);
    const second = await ask(turns(story, first.choices[0].message.content ?? "", "And now?"), to);
    expect(second.usage.prompt_tokens_details.cached_tokens).toBeGreaterThanOrEqual(first.usage.prompt_tokens - 8);
    expect(await errorOf(await client().post(`/internal/sessions/${newId()}/export`, ""))).toMatchObject({
      status: 404,
    });
  });

  test("damaged or foreign bytes are refused, and the instance lives", async () => {
    const session = newId();
    await ask(turns(story), session);
    const bytes = new Uint8Array(await (await client().post(`/internal/sessions/${session}/export`, "")).arrayBuffer());
    const middle = Math.floor(bytes.length / 2);
    const damaged = [
      bytes.slice(0, middle),
      bytes.with(middle, (bytes[middle] ?? 0) ^ 0x55),
      new Uint8Array(4096).fill(7),
      new Uint8Array(),
    ];
    for (const body of damaged) {
      const response = await client().fetch(`/internal/sessions/${newId()}/import`, {
        method: "POST",
        body: new Uint8Array(body),
      });
      expect(await errorOf(response)).toMatchObject({ status: 400, code: "invalid_request" });
    }
    expect((await ask(turns("hello"), newId())).choices[0].finish_reason).toMatch(/stop|length/);
  });

  test("no session's secret shows in another's answer, over evictions and returns", async () => {
    const names = Array.from({ length: sessions * 2 + 1 }, (_, i) => `canary${i}x${randomUUID().slice(0, 8)}`);
    const round = (says: (secret: string) => string) =>
      Promise.all(
        names.map(async (secret) => {
          const answer = await client().chat(
            { messages: turns(says(secret)), max_tokens: 24, temperature: 0 },
            { session: secret },
          );
          return { secret, text: answer.choices[0].message.content ?? "" };
        }),
      );
    await round((secret) => `My secret word is ${secret}.`);
    for (const { secret, text } of [...(await round(() => recall)), ...(await round(() => recall))]) {
      for (const other of names) if (other !== secret) expect(text).not.toContain(other);
    }
  });

  test("a session's turns run one after the other, while other sessions pass", async () => {
    const session = newId();
    const hangUp = new AbortController();
    const body = { prompt: longPrompt, max_tokens: 200, temperature: 0, stream: true };
    const first = await client().post("/v1/completions", body, { session, signal: hangUp.signal });
    expect(first.status).toBe(200);
    const second = ask(turns(story), session);
    await eventually(
      "the second turn waits",
      async () => (await metricsOf(target().metricsUrl)).get("llmpool_instance_requests_waiting") === 1,
    );
    await ask(turns(story), newId());
    expect((await metricsOf(target().metricsUrl)).get("llmpool_instance_requests_waiting")).toBe(1);
    hangUp.abort();
    expect((await second).choices[0].finish_reason).toMatch(/stop|length/);
  });
}
