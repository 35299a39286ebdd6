import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { DevProcess } from "../e2e/dev-process.ts";
import { tempDir } from "../support/temp-dir.ts";
import { hfCuda } from "./runtime.ts";

const { program, tiny } = hfCuda();
const POOL = `apiVersion: llmpool.dev/v1alpha1
kind: LLMPool
metadata: { name: local }
spec:
  backend: hf-cuda
  model: { uri: "file://${tiny}", quantization: none }
  instances: 2
  contextTokens: 256
  roles: [{ name: planner, instance: 0 }, { name: coder, instance: 1 }]
`;

test("llmpool dev runs a pool of hf-cuda with the Python of LLMPOOL_PYTHON", async () => {
  await using dev = await DevProcess.ready(POOL, { LLMPOOL_PYTHON: program.command[0], CUDA_VISIBLE_DEVICES: "" });
  const answer = await fetch(`${dev.url}/v1/chat/completions`, {
    method: "POST",
    headers: { "x-llmpool-role": "coder", "x-session-id": "s" },
    body: JSON.stringify({ messages: [{ role: "user", content: "hi" }], max_tokens: 4, logprobs: true }),
  });
  expect(answer.headers.get("x-llmpool-instance")).toBe("1");
  const said = (await answer.json()) as { choices: [{ logprobs: { content: unknown[] } }]; usage: object };
  expect(said).toMatchObject({ usage: { completion_tokens: 4 } });
  expect(said.choices[0].logprobs.content).toHaveLength(4);
  const { stdout } = await dev.llmpool("status", "-o", "json");
  expect(stdout).toContain("there is no CUDA card here: the CPU computes");
});

test("llmpool dev says which packages a Python lacks, and how to get them", async () => {
  const python = join(await tempDir(), "bare-python");
  // -S: without what is installed.
  await writeFile(python, `#!/bin/sh\nexec '${program.command[0]}' -S "$@"\n`, { mode: 0o755 });
  const failed = await DevProcess.ready(POOL, { LLMPOOL_PYTHON: python }).catch((error: Error) => error.message);
  expect(failed).toMatch(/bare-python has no accelerate, bitsandbytes.*torch/);
  expect(failed).toMatch(/pip install --no-deps --require-hashes -r .*requirements.lock\n.*LLMPOOL_PYTHON=/);
  const absent = await DevProcess.ready(POOL, { LLMPOOL_PYTHON: "/none/python" }).catch((e: Error) => e.message);
  expect(absent).toMatch(/\/none\/python does not run it: .*ENOENT/);
});
