import { join, resolve } from "node:path";
import type { Command } from "commander";
import { LLMClient } from "../client/index.ts";
import { startCommand } from "../dev/hints.ts";
import { readRunFile } from "../dev/run-file.ts";
import type { CliIo } from "./io.ts";
import { UsageError } from "./usage-error.ts";

export interface ConnectionFlags {
  url?: string;
  state: string;
}

const KEY_HELP = "\nLLMPOOL_API_KEY is the key, where the pool asks for one.";

/** For a command whose subcommands talk to a router. */
export const withKeyHelp = (command: Command): Command => command.addHelpText("after", KEY_HELP);

/** The flags by which a command finds its router. */
export function withConnection(command: Command): Command {
  return withKeyHelp(command)
    .option("--url <url>", "the router; default: LLMPOOL_URL, else the llmpool dev of --state")
    .option("--state <dir>", "state directory of a running llmpool dev", ".llmpool");
}

export interface Connection {
  url: string;
  /** Name of the pool, when a local `llmpool dev` said it. */
  pool?: string;
  client: LLMClient;
}

/** The router to talk to. Its key, where the pool asks for one, is `LLMPOOL_API_KEY`: a flag would show in the list of processes. */
export function connect({ url, state }: ConnectionFlags, io: CliIo): Connection {
  const client = (baseUrl: string) => new LLMClient({ baseUrl, apiKey: io.env.LLMPOOL_API_KEY });
  const given = url || io.env.LLMPOOL_URL;
  if (given) {
    if (!/^https?:\/\//.test(given)) {
      throw new UsageError(`${url ? "--url" : "LLMPOOL_URL"} must be a URL, as http://127.0.0.1:8080, not "${given}"`);
    }
    return { url: given, client: client(given) };
  }
  const run = readRunFile(resolve(io.cwd, state));
  if (!run) {
    throw new Error(
      `no pool runs here (${join(state, "dev.json")} names none): start one with: ${startCommand(io.env)}, or give --url`,
    );
  }
  if (run.url === "") throw new Error(`llmpool dev (process ${run.pid}) is still starting: try again in a moment`);
  return { url: run.url, pool: run.pool, client: client(run.url) };
}
