import { silentLogger } from "../../src/lib/logger.ts";
import { resolveModel } from "../../src/models/resolve.ts";

/** A process that resolves one model, as an instance does: `resolve-child.ts URI CACHE_DIR`. One JSON line for each progress and the result. */
const [uri = "", cacheDir = ""] = process.argv.slice(2);
const print = (line: object) => console.log(JSON.stringify(line));
try {
  const model = await resolveModel(uri, {
    cacheDir,
    env: {},
    signal: new AbortController().signal,
    log: silentLogger,
    onProgress: (progress) => print({ progress }),
  });
  print({ model });
} catch (error) {
  print({ error: String(error) });
  process.exitCode = 1;
}
