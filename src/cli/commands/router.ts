import { resolve } from "node:path";
import type { Command } from "commander";
import { z } from "zod";
import { type Definition, define } from "../../dev/definition.ts";
import { watchFile } from "../../dev/watch-file.ts";
import { systemClock } from "../../lib/clock.ts";
import { makeLogger } from "../../lib/logger.ts";
import { readText } from "../../lib/read-text.ts";
import { type Address, ProbedEndpoints } from "../../router/probed-endpoints.ts";
import { dirs, portNumber } from "../flags.ts";
import type { CliIo } from "../io.ts";
import { type ServeFlags, serveRouter } from "../serve-router.ts";
import { UsageError } from "../usage-error.ts";

interface RouterFlags extends ServeFlags {
  file?: string;
  endpoints?: string;
  pool?: string;
  namespace?: string;
  kubeconfig?: string;
  context?: string;
}

const Endpoints = z
  .array(z.strictObject({ id: z.string().min(1), url: z.url({ protocol: /^http$/ }) }))
  .describe('[{"id": "0", "url": "http://127.0.0.1:8000"}]');

export function registerRouter(program: Command, io: CliIo): void {
  program
    .command("router")
    .description("run the router alone, in front of instances that something else runs")
    .option("-f, --file <file>", "the LLMPool; with --endpoints")
    .option("--endpoints <file>", 'JSON list of instances, [{"id": "0", "url": "http://…"}]; followed while it changes')
    .option("--pool <name>", "in place of both: an LLMPool of the cluster, which is followed with its instances")
    .option("-n, --namespace <name>", "where that pool is; default the pod's own, or the context's")
    .option("--kubeconfig <file>", "which cluster; default KUBECONFIG, the pod's own, ~/.kube/config")
    .option("--context <name>", "context of the kubeconfig")
    .requiredOption("--token-file <file>", "the pool's token, which the instances ask for")
    .option("--host <address>", "address to listen on", "127.0.0.1")
    .option("--port <port>", "port to listen on", portNumber, 8080)
    .option("--state <dir>", "where episodes, budgets and sessions are kept", ".llmpool/router")
    .addOption(dirs("--secret <name=dir>", "a Secret as a folder of files, one a key; may be repeated", io.cwd))
    .action(async (flags: RouterFlags) => {
      const { file, endpoints, pool } = flags;
      if (pool !== undefined && file === undefined && endpoints === undefined) {
        const { runClusterRouter } = await import("../cluster-router.ts");
        await runClusterRouter({ ...flags, pool }, io);
      } else if (pool === undefined && file !== undefined && endpoints !== undefined) {
        await run({ ...flags, file, endpoints }, io);
      } else throw new UsageError("say where the pool is: --file and --endpoints, or --pool");
    });
}

async function run(flags: RouterFlags & { file: string; endpoints: string }, io: CliIo): Promise<void> {
  const at = (path: string) => resolve(io.cwd, path);
  const log = makeLogger("info", io.stderr);
  const clock = systemClock;
  const text = await readText(io.cwd, flags.file);
  const options = { source: flags.file, env: io.env, cwd: io.cwd, secretDirs: flags.secret, volumes: new Map() };
  const { plan, secrets } = define(text, options);

  await using stack = new AsyncDisposableStack();
  const source = stack.use(new ProbedEndpoints(clock));
  const endpointsText = await readText(io.cwd, flags.endpoints);
  source.set(parseEndpoints(flags.endpoints, endpointsText));
  const { file } = flags;
  const { take } = await serveRouter({ plan, secrets, source, flags, file, io, clock, log, stack });
  const follow = (what: string, path: string, known: string, change: (text: string) => Definition | undefined) =>
    stack.defer(watchFile(at(path), known, clock, (next) => take(what, () => change(next), path)));
  follow("endpoints", flags.endpoints, endpointsText, (next) => {
    source.set(parseEndpoints(flags.endpoints, next));
    return undefined;
  });
  follow("pool", file, text, (next) => define(next, options));
  if (!io.signal.aborted) await new Promise((done) => io.signal.addEventListener("abort", done, { once: true }));
}

function parseEndpoints(file: string, text: string): Address[] {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new Error(`${file} is not JSON: write ${Endpoints.description}`);
  }
  const parsed = Endpoints.safeParse(json);
  if (!parsed.success) throw new Error(`${file}: ${z.prettifyError(parsed.error)}\nwrite ${Endpoints.description}`);
  return parsed.data.map(({ id, url }) => ({ id, url: url.replace(/\/$/, ""), variant: variantOf(id) }));
}

function variantOf(id: string): string {
  const dash = id.lastIndexOf("-");
  return dash < 0 ? "default" : id.slice(0, dash);
}
