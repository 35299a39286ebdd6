import { join } from "node:path";

/** Where models are kept: `LLMPOOL_CACHE`, else the platform's cache folder of this user. */
export function defaultCacheDir(
  env: Readonly<Record<string, string | undefined>>,
  platform: NodeJS.Platform,
  home: string,
): string {
  if (env.LLMPOOL_CACHE) return env.LLMPOOL_CACHE;
  if (platform === "darwin") return join(home, "Library", "Caches", "llmpool", "models");
  return join(env.XDG_CACHE_HOME || join(home, ".cache"), "llmpool", "models");
}
