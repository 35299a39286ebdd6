import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["{src,operator,runtime-image,test,scripts}/**/*.test.ts"],
    // Native model code and signals need real processes, never worker threads.
    pool: "forks",
    maxWorkers: 2,
    // A limit against hanging, on a slow and busy machine; nothing is asserted about time.
    testTimeout: 120_000,
    hookTimeout: 180_000,
  },
});
