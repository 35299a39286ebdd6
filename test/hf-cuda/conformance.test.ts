import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";
import { InstanceProcess } from "../conformance/process.ts";
import { conformance } from "../conformance/suite.ts";
import { eventually } from "../support/eventually.ts";
import { hfCuda, inFloat32 } from "./runtime.ts";

const { program, smol } = hfCuda();
const float32 = await mkdtemp(join(tmpdir(), "llmpool-float32-"));
await inFloat32(smol, float32);
afterAll(() => rm(float32, { recursive: true, force: true }));

/** Importing torch alone takes seconds of CPU, and a busy machine gives few. */
const START_MS = 170_000;

conformance(
  "hf-cuda",
  async () => {
    const model = { uri: `file://${float32}`, sha256: "", quantization: "none" };
    const instance = await InstanceProcess.listening({ backend: "hf-cuda", model, threads: 1 }, program);
    try {
      await eventually("the instance is ready", () => instance.heard("ready"), START_MS);
      return instance;
    } catch (error) {
      await instance.stop();
      throw new Error(`the instance did not become ready: ${instance.stderr}`, { cause: error });
    }
  },
  {
    profile: "session",
    logprobs: true,
    contextTokens: 512,
    sessions: 2,
    longPrompt: "Once upon a time there was a fox who lived by a river. One day",
    recall: "Repeat my first message, word for word.",
  },
);
