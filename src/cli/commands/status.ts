import { resolve } from "node:path";
import type { Command } from "commander";
import type { InstanceObject } from "../../client/index.ts";
import { liveView } from "../../dev/live-view.ts";
import { plainView } from "../../dev/plain-view.ts";
import { readRunFile } from "../../dev/run-file.ts";
import { statusTable } from "../../dev/status-table.ts";
import { type Clock, systemClock } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import { sleep } from "../../lib/sleep.ts";
import { type ClusterFlags, meansCluster, openCluster, withCluster } from "../cluster-access.ts";
import { findPool, showPool } from "../cluster-status.ts";
import { type Connection, type ConnectionFlags, connect, withConnection } from "../connection.ts";
import type { CliIo } from "../io.ts";
import { format } from "../output.ts";
import { LIST_OUTPUT_HELP, type ListOutput, listOutput } from "../table.ts";
import { UsageError } from "../usage-error.ts";

interface StatusFlags extends ConnectionFlags, ClusterFlags {
  output?: ListOutput;
  watch?: boolean;
}

const EVERY_MS = 1000;
/** Columns where nothing is cut. */
const UNCUT = 4096;

/** `llmpool status`: the pool, its instances and roles, as its router sees them; or as an LLMPool of a cluster says. */
export function registerStatus(program: Command, io: CliIo, clock: Clock = systemClock): void {
  const command = program
    .command("status")
    .description("show a running pool, here or on a cluster: its instances and roles");
  withCluster(withConnection(command))
    .argument("[pool]", "an LLMPool of the cluster, in place of a router; default with -n: the only one there is")
    .option("-o, --output <format>", LIST_OUTPUT_HELP, listOutput)
    .option("-w, --watch", "follow it until Ctrl-C")
    .action(async (name: string | undefined, { output, watch, ...flags }: StatusFlags) => {
      if (name !== undefined || (flags.url === undefined && meansCluster(flags, io))) {
        if (flags.url !== undefined) throw new UsageError("say --url or the name of an LLMPool, not both");
        if (watch) throw new UsageError("--watch follows a router; on a cluster: kubectl get llmp --watch");
        await using stack = new AsyncDisposableStack();
        const cluster = await openCluster(stack, flags, io).catch((error: unknown) => {
          const local = readRunFile(resolve(io.cwd, flags.state));
          if (!local) throw error;
          const cure = `pool ${local.pool} runs here, which status shows without a name`;
          throw new Error(`${messageOf(error)}; ${cure}`, { cause: error });
        });
        return io.stdout(showPool(await findPool(cluster, name, io.signal), output));
      }
      const connection = connect(flags, io);
      if (watch) return follow(connection, io, clock);
      const status = await read(connection, io.signal);
      io.stdout(show(status, output, io));
    });
}

interface Status {
  pool: string | undefined;
  url: string;
  ready: number;
  instances: InstanceObject[];
  roles: { name: string; instances: string[] }[];
}

async function read({ client, url, pool }: Connection, signal: AbortSignal): Promise<Status> {
  const instances = await client.instances({ signal });
  const names = [...new Set(instances.flatMap((instance) => instance.roles))];
  return {
    pool,
    url,
    ready: instances.filter((instance) => instance.state === "Ready").length,
    instances,
    roles: names.map((name) => ({
      name,
      instances: instances.filter((instance) => instance.roles.includes(name)).map((instance) => instance.id),
    })),
  };
}

function show(status: Status, output: ListOutput | undefined, io: CliIo): string {
  if (output === "json" || output === "yaml") return format(status, output);
  if (output === "name") return status.instances.map((instance) => `${instance.id}\n`).join("");
  const width = output === "wide" ? UNCUT : (io.terminal?.columns() ?? UNCUT);
  const lines = [title(status), ...statusTable(status.instances, width, io.terminal?.color ?? false)];
  return lines.map((line) => `${line}\n`).join("");
}

function title({ pool, url, ready, instances }: Status): string {
  return `${pool === undefined ? "pool" : `pool ${pool}`} at ${url}: ${ready} of ${instances.length} instances ready`;
}

async function follow(connection: Connection, io: CliIo, clock: Clock): Promise<void> {
  const view = io.terminal ? liveView(io.terminal, clock) : plainView(io.stdout);
  // The clock's timers keep no process alive.
  const alive = setInterval(() => {}, 60_000);
  try {
    while (!io.signal.aborted) {
      const status = await read(connection, io.signal);
      view.show(title(status), status.instances);
      await sleep(clock, EVERY_MS, io.signal);
    }
  } catch (error) {
    if (!io.signal.aborted) throw error;
  } finally {
    clearInterval(alive);
    view.close();
  }
}
