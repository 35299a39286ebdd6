import { openSync, writeSync } from "node:fs";
import { createBackend } from "../../runtime-image/factory.ts";
import { Instance } from "../../runtime-image/instance.ts";
import type { GenerateEvent, GenerateRequest, LLMBackend } from "../../src/api/backend.ts";
import type { InstanceConfig } from "../../src/api/instance.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { serve } from "./child.ts";

export interface InstanceChildConfig {
  instance: InstanceConfig;
  /** Where the engine writes what it counts, a line each. */
  counts: string;
}

/** A line of the counts: `[id, marker]` begins, `[id, prompt, completion, done]` is the count so far. */
export type CountLine = [id: string, marker: string] | [id: string, prompt: number, completion: number, done: boolean];

/** One stub instance as runtime-image/main.ts puts it together, whose engine writes down each token before anybody else hears of it. */
await serve<InstanceChildConfig, never>(async ({ instance: config, counts }, stack) => {
  const file = openSync(counts, "a");
  const write = (line: CountLine) => void writeSync(file, `${JSON.stringify(line)}\n`);
  let url = "";
  const instance = stack.use(
    await Instance.listen(config, {
      createBackend: async (...args) => counting(await createBackend(...args), write),
      resolveModel: () => Promise.reject(new Error("a stub has no model")),
      ...{ clock: systemClock, log: silentLogger },
      report(message) {
        if (message.type === "listening") url = `http://127.0.0.1:${message.port}`;
      },
    }),
  );
  await instance.load();
  return { url, told: () => {} };
});

function counting(backend: LLMBackend, write: (line: CountLine) => void): LLMBackend {
  async function* generate(request: GenerateRequest, options: { signal: AbortSignal }): AsyncGenerator<GenerateEvent> {
    const { requestId: id, prompt } = request;
    const text = prompt.kind === "raw" ? prompt.text : (prompt.messages.at(-1)?.content ?? "");
    write([id, /\bmark_\w+/.exec(text)?.[0] ?? ""]);
    let [prompted, completed] = [0, 0];
    for await (const event of backend.generate(request, options)) {
      if (event.type === "prompt") prompted = event.promptTokens;
      else if (event.type === "done") completed = event.usage.completionTokens;
      else completed += event.tokens;
      write([id, prompted, completed, event.type === "done"]);
      yield event;
    }
  }
  return new Proxy(backend, {
    get(target, name) {
      if (name === "generate") return generate;
      const value: unknown = Reflect.get(target, name);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}
