import { InstanceProcess } from "./process.ts";
import { conformance } from "./suite.ts";

conformance(
  "stub",
  () => InstanceProcess.listening({ stub: { ttftMs: 50, interTokenMs: 0, replyTokens: 16, errorRate: 0 } }),
  {
    profile: "session",
    contextTokens: 512,
    sessions: 2,
    longPrompt: "!stub replyTokens=250 interTokenMs=10\ncount",
    recall: "!stub recall",
  },
);
