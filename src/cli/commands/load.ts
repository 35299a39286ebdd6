import { writeFile } from "node:fs/promises";
import { resolve } from "node:path";
import type { Command } from "commander";
import { StartError } from "../../api/instance.ts";
import type { ModelFacts } from "../../api/model-facts.ts";
import { systemClock } from "../../lib/clock.ts";
import { makeLogger } from "../../lib/logger.ts";
import type { DownloadProgress } from "../../models/progress.ts";
import type { CliIo } from "../io.ts";

interface LoadFlags {
  cacheDir: string;
  sha256?: string;
  facts?: string;
}

/** How often the log says how far it is, in milliseconds. */
const SAY_EVERY_MS = 10_000;

/** `llmpool load`: fetches one model into a cache folder and says what it is. The operator's loader Jobs run it. */
export function registerLoad(program: Command, io: CliIo): void {
  program
    .command("load")
    .description("fetch a model into a cache folder, and print what it is and takes as JSON")
    .argument("<uri>", "model.uri of a pool: hf://, https:// or pypi://")
    .requiredOption("--cache-dir <dir>", "the model cache")
    .option("--sha256 <hex>", "what a single file must have")
    .option("--facts <file>", "write the JSON there too: /dev/termination-log in a pod")
    .action(async (uri: string, flags: LoadFlags) => {
      const log = makeLogger("info", io.stderr);
      try {
        const facts = JSON.stringify(await load(uri, flags, io));
        io.stdout(`${facts}\n`);
        if (flags.facts !== undefined) await writeFile(resolve(io.cwd, flags.facts), facts);
      } catch (error) {
        if (!(error instanceof StartError)) throw error;
        // The last line of the log, as of a runtime that cannot start.
        log.error(error.message, { reason: error.reason });
        io.setExitCode(1);
      }
    });
}

async function load(uri: string, { cacheDir, sha256 }: LoadFlags, io: CliIo): Promise<ModelFacts> {
  const log = makeLogger("info", io.stderr);
  const { resolveModel } = await import("../../models/resolve.ts");
  const { factsOf } = await import("../../models/facts.ts");
  const dir = resolve(io.cwd, cacheDir);
  const clock = systemClock;
  let saidAt = clock.now();
  const onProgress = ({ name, bytes, total, bytesPerSecond }: DownloadProgress) => {
    if (clock.now() - saidAt < SAY_EVERY_MS) return;
    saidAt = clock.now();
    log.info("loading", { name, bytes, total, bytes_per_second: Math.round(bytesPerSecond) });
  };
  const model = await resolveModel(uri, { cacheDir: dir, sha256, env: io.env, signal: io.signal, log, onProgress });
  return factsOf(model, dir);
}
