import { cp, mkdtemp, rename, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { InstanceConfig } from "../../src/api/instance.ts";
import { Client } from "../conformance/client.ts";
import { InstanceProcess } from "../conformance/process.ts";
import { eventually } from "../support/eventually.ts";
import { hfCuda } from "./runtime.ts";

const { program, tiny } = hfCuda();
const START_MS = 100_000;

const from = (folder: string): Partial<InstanceConfig> => ({
  backend: "hf-cuda",
  model: { uri: `file://${folder}`, sha256: "", quantization: "none" },
  threads: 1,
});

test.each([
  ["a configuration that is none", { contextTokens: 0 }, "ConfigInvalid", /contextTokens/],
  ["a model that is not there", from("/nonexistent"), "ModelNotFound", /no folder \/nonexistent/],
])("says why it cannot start: %s", async (_, change, reason, words) => {
  await using instance = await InstanceProcess.spawn({ ...from(tiny), ...change }, program);
  const failed = await eventually("it says why", () => instance.heard("failed"), START_MS);
  expect(failed).toMatchObject({ reason, message: expect.stringMatching(words) });
  expect(await instance.exit()).toEqual({ code: 1, signal: null });
});

test("never opens a pickle", async () => {
  const dir = await mkdtemp(join(tmpdir(), "llmpool-pickle-"));
  try {
    await cp(tiny, dir, { recursive: true });
    await rename(join(dir, "model.safetensors"), join(dir, "pytorch_model.bin"));
    await using instance = await InstanceProcess.spawn(from(dir), program);
    const failed = await eventually("it says why", () => instance.heard("failed"), START_MS);
    expect(failed).toMatchObject({ reason: "ModelInvalid", message: expect.stringContaining("is a pickle") });
    expect((await instance.exit()).code).toBe(1);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});

test("ends with its supervisor, while it loads too", async () => {
  await using instance = await InstanceProcess.listening(from(tiny), program);
  instance.child.disconnect();
  expect((await instance.exit()).signal).toBeNull();
});

test("answers while it drains what it had accepted, and ends with 0", async () => {
  await using instance = await InstanceProcess.listening(from(tiny), program);
  await eventually("it is ready", () => instance.heard("ready"), START_MS);
  expect(instance.heard("ready")).toMatchObject({ device: "CPU", modelName: "tiny-llama" });
  const client = new Client(instance);
  const running = client.stream("/v1/completions", { prompt: "Once", max_tokens: 200, temperature: 0 });
  await eventually("it runs", () => instance.messages.some((m) => m.type === "running" && m.count > 0));
  instance.child.kill("SIGTERM");
  expect((await running).kinds.at(-1)).toBe("done");
  expect(await instance.exit()).toEqual({ code: 0, signal: null });
});
