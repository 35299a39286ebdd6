import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import type { Command } from "commander";
import { readDocuments } from "../../api/documents.ts";
import type { Setting } from "../../api/environment.ts";
import { validateWith } from "../../api/load.ts";
import { describe, ManifestError, type Problem } from "../../api/problem.ts";
import { whyUnread } from "../../lib/read-text.ts";
import { settings } from "../flags.ts";
import type { CliIo } from "../io.ts";
import { format, type Output, outputFormat } from "../output.ts";

interface ValidateFlags {
  file: string[];
  output?: Output;
  set: readonly Setting[];
}

/** What was found in one file, or of one pool in it. */
interface Finding {
  file: string;
  pool?: string;
  valid: boolean;
  problems: readonly Problem[];
}

/** `llmpool validate`: what an API server would say to the pools of these files, without one. The environment does not count. */
export function registerValidate(program: Command, io: CliIo): void {
  program
    .command("validate")
    .description("check LLMPool files as a cluster would: every problem, with its field and cure")
    .requiredOption("-f, --file <file...>", "files with LLMPools")
    .addOption(settings())
    .option("-o, --output <format>", "yaml or json, for programs", outputFormat)
    .action(async ({ file: files, output, set }: ValidateFlags) => {
      const findings = (await Promise.all(files.map((file) => check(file, io.cwd, set)))).flat();
      if (output !== undefined) io.stdout(format(findings, output));
      else for (const finding of findings) print(finding, io);
      if (findings.some((finding) => !finding.valid)) io.setExitCode(1);
    });
}

async function check(file: string, cwd: string, set: readonly Setting[]): Promise<Finding[]> {
  const bad = (problems: readonly Problem[]): Finding[] => [{ file, valid: false, problems }];
  try {
    const { pools } = readDocuments(await readFile(resolve(cwd, file), "utf8"), file);
    if (pools.length === 0) return bad([{ path: "", message: "there is no LLMPool in it" }]);
    return pools.map((manifest, index) => {
      const result = validateWith(manifest, set);
      const pool = (manifest.metadata as { name?: unknown } | undefined)?.name;
      return {
        file,
        pool: typeof pool === "string" ? pool : `#${index + 1}`,
        valid: result.ok,
        problems: result.ok ? [] : result.problems,
      };
    });
  } catch (error) {
    return bad(error instanceof ManifestError ? error.problems : [{ path: "", message: whyUnread(error) }]);
  }
}

function print({ file, pool, valid, problems }: Finding, io: CliIo): void {
  const what = pool === undefined ? file : `${file}: llmpool/${pool}`;
  if (valid) io.stdout(`${what} is valid\n`);
  for (const problem of problems)
    io.stderr(`${what}: ${describe(problem)}
`);
}
