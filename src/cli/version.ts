import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";

/** The version of this package, from its package.json: some folders above, in the sources and in what was built of them. */
export function packageVersion(from = import.meta.dirname): string {
  for (let dir = from; ; dir = dirname(dir)) {
    try {
      const { name, version } = JSON.parse(readFileSync(join(dir, "package.json"), "utf8")) as Record<string, string>;
      if (name === "llmpool" && version !== undefined) return version;
    } catch {
      // Not this one.
    }
    if (dir === dirname(dir)) return "unknown";
  }
}
