import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import type { Command } from "commander";
import { messageOf } from "../../lib/errors.ts";
import type { CliIo } from "../io.ts";

/** `llmpool runtime`: one instance process. The supervisor and pods start it; by hand it is for trying a backend alone. */
export function registerRuntime(program: Command, io: CliIo): void {
  program
    .command("runtime")
    .description("serve one instance, as LLMPOOL_INSTANCE (JSON) or a file says")
    .option("--config <file>", "JSON file with the instance's configuration")
    .action(async ({ config }: { config?: string }) => {
      let text = io.env.LLMPOOL_INSTANCE;
      if (config !== undefined) {
        try {
          text = await readFile(resolve(io.cwd, config), "utf8");
        } catch (error) {
          io.stderr(`--config ${config} cannot be read: ${messageOf(error)}\n`);
          io.setExitCode(2);
          return;
        }
      }
      if (text === undefined) {
        io.stderr("llmpool runtime needs LLMPOOL_INSTANCE or --config FILE (docs/instance-protocol.md)\n");
        io.setExitCode(2);
        return;
      }
      const { runInstance } = await import("../../../runtime-image/process.ts");
      await runInstance(text);
    });
}
