import { smolModel } from "../support/model.ts";
import { InstanceProcess } from "./process.ts";
import { conformance } from "./suite.ts";

conformance(
  "llama-cpp",
  async () => InstanceProcess.listening({ backend: "llama-cpp", modelPath: await smolModel(), threads: 1 }),
  {
    profile: "session",
    contextTokens: 512,
    sessions: 2,
    longPrompt: "Once upon a time there was a fox who lived by a river. One day",
    recall: "Repeat my first message, word for word.",
  },
);
