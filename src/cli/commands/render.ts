import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import type { Command } from "commander";
import { loadPool } from "../../api/load.ts";
import { planPool } from "../../core/plan/plan.ts";
import { messageOf } from "../../lib/errors.ts";
import type { CliIo } from "../io.ts";
import { format, type Output, outputFormat } from "../output.ts";

interface RenderFlags {
  file: string;
  name?: string;
  output: Output;
}

/** `llmpool render`: the plan that `llmpool dev` would execute for this file and environment. */
export function registerRender(program: Command, io: CliIo): void {
  program
    .command("render")
    .description("print the plan of a pool: its instances, ids, ports, roles and router settings")
    .requiredOption("-f, --file <file>", "the LLMPool; may hold Secrets too")
    .option("--name <name>", "which pool, when the file holds several")
    .option("-o, --output <format>", "yaml or json", outputFormat, "yaml")
    .action(async ({ file, name, output }: RenderFlags) => {
      try {
        const text = await readFile(resolve(io.cwd, file), "utf8");
        const { pool, notes } = loadPool(text, {
          source: file,
          ...(name !== undefined && { name }),
          env: io.env,
          cwd: io.cwd,
        });
        for (const note of notes) io.stderr(`${note}\n`);
        io.stdout(format(planPool(pool), output));
      } catch (error) {
        io.stderr(`${messageOf(error)}\n`);
        io.setExitCode(1);
      }
    });
}
