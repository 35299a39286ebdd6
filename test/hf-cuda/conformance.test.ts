import { InstanceProcess } from "../conformance/process.ts";
import { conformance } from "../conformance/suite.ts";
import { eventually } from "../support/eventually.ts";
import { hfCuda } from "./runtime.ts";

const { program, smol } = hfCuda();

/** Importing torch alone takes seconds of CPU, and a busy machine gives few. */
const START_MS = 170_000;

conformance(
  "hf-cuda",
  async () => {
    const model = { uri: `file://${smol}`, sha256: "", quantization: "none" };
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
    contextTokens: 512,
    sessions: 2,
    longPrompt: "Once upon a time there was a fox who lived by a river. One day",
    recall: "Repeat my first message, word for word.",
  },
);
