import type { Command } from "commander";
import type { Setting } from "../../api/environment.ts";
import { loadPool } from "../../api/load.ts";
import { planPool } from "../../core/plan/plan.ts";
import { messageOf } from "../../lib/errors.ts";
import { readText } from "../../lib/read-text.ts";
import { settings } from "../flags.ts";
import type { CliIo } from "../io.ts";
import { format, type Output, outputFormat } from "../output.ts";
import { packageVersion } from "../version.ts";

/** Where the chart puts the operator unless it is told otherwise. */
const OPERATOR_NAMESPACE = "llmpool-system";

interface RenderFlags {
  file: string;
  name?: string;
  output: Output;
  objects?: boolean;
  set: readonly Setting[];
}

/** `llmpool render`: the plan that `llmpool dev` would execute for this file and environment, or the objects that the operator would apply. */
export function registerRender(program: Command, io: CliIo): void {
  program
    .command("render")
    .description("print the plan of a pool, or with --objects what the operator would apply")
    .requiredOption("-f, --file <file>", "the LLMPool; may hold Secrets too")
    .addOption(settings())
    .option("--name <name>", "which pool, when the file holds several")
    .option("-o, --output <format>", "yaml or json", outputFormat, "yaml")
    .option("--objects", "print the objects that the operator would apply, in place of the plan")
    .action(async ({ file, name, output, objects = false, set }: RenderFlags) => {
      try {
        const text = await readText(io.cwd, file);
        const { pool, notes } = loadPool(text, {
          source: file,
          flags: set,
          ...(name !== undefined && { name }),
          // The environment counts on this machine alone.
          ...(objects ? {} : { env: io.env }),
          cwd: io.cwd,
        });
        for (const note of notes) io.stderr(`${note}\n`);
        const plan = planPool(pool);
        if (!objects) return io.stdout(format(plan, output));
        const { defaultImages, namesOf, renderPool } = await import("../../../operator/render/index.ts");
        const items = renderPool(pool, plan, {
          images: defaultImages(packageVersion()),
          operatorNamespace: OPERATOR_NAMESPACE,
          podMonitors: false,
        });
        io.stderr(`left out: Secret ${namesOf(pool.metadata.name).token}, which the operator makes once, at random\n`);
        if (output === "json") io.stdout(format({ apiVersion: "v1", kind: "List", items }, output));
        else io.stdout(items.map((item) => format(item, output)).join("---\n"));
      } catch (error) {
        io.stderr(`${messageOf(error)}\n`);
        io.setExitCode(1);
      }
    });
}
