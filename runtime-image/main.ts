import { runInstance } from "./process.ts";

await runInstance(process.env.LLMPOOL_INSTANCE);
