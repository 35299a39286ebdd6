import { resolve } from "node:path";
import type { Command } from "commander";
import type { Setting } from "../../api/environment.ts";
import { systemClock } from "../../lib/clock.ts";
import { dirs, portNumber, settings } from "../flags.ts";
import type { CliIo } from "../io.ts";

interface DevFlags {
  file: string;
  port: number;
  state: string;
  secret: ReadonlyMap<string, string>;
  volume: ReadonlyMap<string, string>;
  set: readonly Setting[];
}

/** `llmpool dev`: a pool on this machine. */
export function registerDev(program: Command, io: CliIo): void {
  program
    .command("dev")
    .description("run a pool on this machine, and follow edits of its file")
    .requiredOption("-f, --file <file>", "the LLMPool; may hold Secrets too")
    .addOption(settings())
    .option("--port <port>", "port of the router on 127.0.0.1", portNumber, 8080)
    .option("--state <dir>", "where the pool keeps episodes, sessions and saved caches", ".llmpool")
    .addOption(dirs("--secret <name=dir>", "a Secret as a folder of files, one a key; may be repeated", io.cwd))
    .addOption(
      dirs("--volume <claim=dir>", "a folder that stands for a volume claim of pvc://; may be repeated", io.cwd),
    )
    .action(async (flags: DevFlags) => {
      const { dev } = await import("../../dev/dev.ts");
      const options = {
        file: resolve(io.cwd, flags.file),
        port: flags.port,
        stateDir: resolve(io.cwd, flags.state),
        secretDirs: flags.secret,
        volumes: flags.volume,
        settings: flags.set,
      };
      await dev(options, io, systemClock);
    });
}
