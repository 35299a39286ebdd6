import { expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { RawConnection } from "../support/raw-http.ts";
import { type Client, errorOf, metricsOf, readStream } from "./client.ts";
import { type ConformanceOptions, hello, newId, readSome, runningOf, type Target } from "./shared.ts";

/** How requests end before their time, how they share the instance, and what is counted. */
export function endingTests(
  client: () => Client,
  target: () => Target,
  { longPrompt, sessions, profile }: ConformanceOptions,
): void {
  const long = { prompt: longPrompt, max_tokens: 200, temperature: 0 };

  test("a hang-up stops the generation, and the record says how far it came", async () => {
    const id = newId();
    const seen = await readSome(client(), long, { id }, 3);
    const record = await client().record(id);
    expect(record.done).toBe(true);
    expect(record.completion_tokens).toBeGreaterThanOrEqual(seen);
    expect(record.completion_tokens).toBeLessThan(200);
    expect(record.prompt_tokens).toBeGreaterThan(0);
    expect(await runningOf(target())).toBe(0);
  });

  test("a hang-up before the headers stops it too", async () => {
    const id = newId();
    const hangUp = new AbortController();
    const whole = client().post("/v1/completions", long, { id, signal: hangUp.signal });
    await eventually("it runs", async () => (await runningOf(target())) > 0);
    hangUp.abort();
    await expect(whole).rejects.toThrow();
    const record = await client().record(id);
    expect(record).toMatchObject({ done: true });
    expect(record.completion_tokens).toBeLessThan(200);
  });

  test("time that is up is request_timeout, with what was used", async () => {
    const late = await client().post("/v1/completions", long, { timeoutMs: 0 });
    expect(await errorOf(late)).toMatchObject({ status: 504, code: "request_timeout" });
    const id = newId();
    const whole = await errorOf(await client().post("/v1/completions", long, { id, timeoutMs: 300 }));
    expect(whole).toMatchObject({ status: 504, code: "request_timeout" });
    const record = await client().record(id);
    expect(record).toMatchObject({ done: true });
    expect(whole.usage).toMatchObject({
      prompt_tokens: record.prompt_tokens,
      completion_tokens: record.completion_tokens,
    });
    expect(record.completion_tokens).toBeLessThan(200);
  });

  test("an error after the first token is a frame behind the usage, without [DONE]", async () => {
    // How long the first token takes is not known: the time is doubled until it is out, and the others are not.
    for (let timeoutMs = 100; ; timeoutMs *= 2) {
      const response = await client().post("/v1/completions", { ...long, stream: true }, { timeoutMs });
      if (response.status === 504) continue;
      const stream = readStream(await response.text());
      expect(stream.error).toMatchObject({ code: "request_timeout" });
      expect(stream.kinds.slice(-2)).toEqual(["usage", "error"]);
      expect(stream.record).toMatchObject({ done: true });
      expect(stream.record?.completion_tokens).toBeGreaterThan(0);
      return;
    }
  });

  test(`${sessions} requests run side by side`, async () => {
    const streams = Array.from({ length: sessions }, () =>
      client().post("/v1/completions", { ...long, max_tokens: 120, stream: true }),
    );
    await eventually("all run at once", async () => (await runningOf(target())) === sessions);
    const texts = await Promise.all(streams.map(async (stream) => readStream(await (await stream).text()).text));
    expect(new Set(texts).size).toBe(1);
  });

  test("more requests than slots wait and are all answered", async () => {
    const all = await Promise.all(Array.from({ length: sessions * 3 }, () => client().chat(hello)));
    expect(new Set(all.map((a) => a.choices[0].message.content)).size).toBe(1);
  });

  test.runIf(profile === "session")(
    "a router's request that waits hears its place, and 0 before its answer begins",
    async () => {
      const leave = new AbortController();
      const busy = Array.from({ length: sessions }, () =>
        client().post("/v1/completions", { ...long, stream: true }, { signal: leave.signal }),
      );
      await eventually("all slots are taken", async () => (await runningOf(target())) === sessions);
      using router = await RawConnection.open(target().url);
      const body = JSON.stringify({ ...hello, max_tokens: 4 });
      router.send(
        `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${target().token}\r\n` +
          `x-llmpool-flow: t/e\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
      );
      await eventually("it has heard its place", () => /^x-llmpool-position: 1\r$/m.test(router.received));
      leave.abort();
      await Promise.allSettled(busy.map(async (stream) => (await stream).text()));
      await eventually("it is answered", () => router.statuses.length === 1);
      const places = [...router.received.matchAll(/^HTTP\/1\.1 102 .*\r\nx-llmpool-position: (\d+)\r\n\r$/gm)];
      expect(places.map(([, place]) => place).at(-1)).toBe("0");
      expect(router.statuses).toEqual([200]);
    },
  );

  test("metrics have our names and those of a model server", async () => {
    const metrics = await metricsOf(target().metricsUrl);
    const names = new Set([...metrics.keys()].map((key) => key.replace(/\{.*/, "")));
    for (const name of [
      "llmpool_instance_requests_total",
      "llmpool_instance_requests_running",
      "llmpool_instance_requests_waiting",
      "llmpool_instance_time_to_first_token_seconds_bucket",
      "llmpool_instance_inter_token_seconds_bucket",
      "llmpool_instance_prompt_tokens_total",
      "llmpool_instance_completion_tokens_total",
      "llmpool_instance_cached_tokens_total",
      "llmpool_instance_sessions",
      "llmpool_instance_kv_usage_ratio",
      "llmpool_instance_warmup_seconds",
      "vllm:num_requests_running",
      "vllm:num_requests_waiting",
      "vllm:kv_cache_usage_perc",
    ]) {
      expect(names).toContain(name);
    }
    expect(metrics.get('llmpool_instance_requests_total{code="ok"}')).toBeGreaterThan(0);
    expect(metrics.get('llmpool_instance_requests_total{code="aborted"}')).toBeGreaterThan(0);
    expect(metrics.get('llmpool_instance_requests_total{code="request_timeout"}')).toBeGreaterThan(0);
  });

  test("counters of tokens are the sum of the usages", async () => {
    const before = await metricsOf(target().metricsUrl);
    const { usage } = await client().chat(hello);
    const after = await metricsOf(target().metricsUrl);
    const grown = (name: string) => (after.get(name) ?? 0) - (before.get(name) ?? 0);
    expect(grown("llmpool_instance_prompt_tokens_total")).toBe(usage.prompt_tokens);
    expect(grown("llmpool_instance_completion_tokens_total")).toBe(usage.completion_tokens);
  });
}
