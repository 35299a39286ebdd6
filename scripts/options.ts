import { type ParseArgsConfig, parseArgs } from "node:util";

/** The options and names of a script's command line. Ends the process with `usage` after `--help`, and with one line and 2 after what it does not know. */
export function readOptions<T extends NonNullable<ParseArgsConfig["options"]>>(usage: string, options: T) {
  const all = { help: { type: "boolean", short: "h" }, ...options } as const;
  try {
    const parsed = parseArgs({ allowPositionals: true, options: all });
    if (!process.argv.slice(2).some((arg) => arg === "--help" || arg === "-h")) return parsed;
    console.log(usage);
  } catch (error) {
    console.error(`${error instanceof Error ? error.message.split(". ")[0] : error}; see --help`);
    process.exit(2);
  }
  process.exit(0);
}
