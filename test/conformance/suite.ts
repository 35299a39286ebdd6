import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { accessTests } from "./access.ts";
import { answerTests } from "./answers.ts";
import { limitTests } from "./bounds.ts";
import { Client, errorOf } from "./client.ts";
import { endingTests } from "./endings.ts";
import { sessionTests } from "./sessions.ts";
import { type ConformanceOptions, hello, runningOf, type Target } from "./shared.ts";

/** One suite for every runtime: what a router may rely on. `start` gives an instance that is not ready yet, or only just. */
export function conformance(name: string, start: () => Promise<Target>, options: ConformanceOptions): void {
  describe(`${name} keeps the instance protocol`, () => {
    let target: Target;
    let client: Client;
    beforeAll(async () => {
      target = await start();
      client = new Client(target);
    });
    afterAll(() => target?.stop());

    // First, while it still loads.
    test("takes work only after its warm-up", async () => {
      const early = await client.fetch("/readyz");
      if (early.status !== 200) {
        expect(early.status).toBe(503);
        const refused = await client.post("/v1/chat/completions", hello);
        if (refused.status !== 200) {
          expect(await errorOf(refused)).toMatchObject({ status: 503, code: "instance_unavailable" });
          expect(refused.headers.get("retry-after")).not.toBeNull();
        }
      }
      await eventually("it is ready", async () => (await client.fetch("/readyz")).status === 200);
      expect((await client.post("/v1/chat/completions", hello)).status).toBe(200);
    });

    accessTests(() => client, options);
    answerTests(() => client, options);
    limitTests(() => client, options);
    endingTests(
      () => client,
      () => target,
      options,
    );
    if (options.profile === "session")
      sessionTests(
        () => client,
        () => target,
        options,
      );

    // Last: it does not come back from this.
    test("a drain takes no new work and lets the running end", async () => {
      const running = client.stream("/v1/completions", { prompt: options.longPrompt, max_tokens: 60, temperature: 0 });
      await eventually("it runs", async () => (await runningOf(target)) > 0);
      expect((await client.post("/internal/drain", "")).status).toBe(200);
      const refused = await client.post("/v1/chat/completions", hello);
      expect(await errorOf(refused)).toMatchObject({ status: 503, code: "instance_unavailable" });
      expect((await client.fetch("/readyz")).status).toBe(503);
      expect((await client.fetch("/healthz")).status).toBe(200);
      expect((await running).kinds.at(-1)).toBe("done");
    });
  });
}
