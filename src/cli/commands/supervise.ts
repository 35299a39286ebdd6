import { readFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { resolve } from "node:path";
import type { Command } from "commander";
import { z } from "zod";
import { InstanceConfig, type SupervisedInstance } from "../../api/instance.ts";
import type { Endpoint } from "../../core/endpoint.ts";
import { watchFile } from "../../dev/watch-file.ts";
import { systemClock } from "../../lib/clock.ts";
import { availableCpus } from "../../lib/cpus.ts";
import { messageOf } from "../../lib/errors.ts";
import { makeLogger } from "../../lib/logger.ts";
import type { ProcessSpec } from "../../supervisor/spec.ts";
import { makeSupervisor } from "../../supervisor/start.ts";
import type { Supervisor } from "../../supervisor/supervisor.ts";
import { portNumber } from "../flags.ts";
import type { CliIo } from "../io.ts";

interface SuperviseFlags {
  host: string;
  port: number;
}

/** What the file holds: the processes that are wanted, as the operator writes them. */
const Specs = z.array(
  z.strictObject({
    id: z.string().min(1),
    variant: z.string().min(1),
    revision: z.string().min(1),
    drainSeconds: z.int().min(0),
    memoryLimitBytes: z.int().min(1).optional(),
    cpuLimit: z.int().min(1).optional(),
    after: z.string().min(1).optional(),
    config: InstanceConfig,
  }),
);

/** `llmpool supervise`: the supervisor of one pod that holds several instances (gpu.mode Packed). The operator's pods start it. */
export function registerSupervise(program: Command, io: CliIo): void {
  program
    .command("supervise")
    .description("run the instances that a file lists, and follow its edits: one pod's part of a Packed pool")
    .argument("<file>", "JSON list of processes; a file that is not there lists none")
    .option("--host <address>", "address of /healthz", "0.0.0.0")
    .option("--port <port>", "port of /healthz", portNumber, 8200)
    .action((file: string, flags: SuperviseFlags) => run(resolve(io.cwd, file), flags, io));
}

async function run(file: string, { host, port }: SuperviseFlags, io: CliIo): Promise<void> {
  const log = makeLogger("info", io.stderr);
  const clock = systemClock;
  const text = await readFile(file, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "[]";
    throw error;
  });
  let specs = parseSpecs(file, text);
  await using stack = new AsyncDisposableStack();
  const supervisor = makeSupervisor({ clock, log, env: io.env, cpus: availableCpus() });
  stack.defer(() => supervisor.close(0));
  const health = await listen(supervisor, host, port);
  stack.defer(() => close(health));
  supervisor.apply(specs);
  log.info("supervising", { file, instances: specs.map(({ id }) => id), port: (health.address() as AddressInfo).port });
  const stopWatching = watchFile(file, text, clock, (next) => {
    try {
      specs = parseSpecs(file, next);
      supervisor.apply(specs);
      log.info("took the new file", { instances: specs.map(({ id }) => id) });
    } catch (error) {
      log.error("kept the old file", { err: messageOf(error) });
    }
  });
  stack.defer(stopWatching);
  if (!io.signal.aborted) await new Promise((done) => io.signal.addEventListener("abort", done, { once: true }));
  stopWatching();
  const graceSeconds = Math.max(0, ...specs.map(({ drainSeconds }) => drainSeconds));
  log.info("draining", { graceSeconds });
  await supervisor.close(graceSeconds * 1000);
}

/** Throws with every problem. */
function parseSpecs(file: string, text: string): ProcessSpec[] {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new Error(`${file} is not JSON`);
  }
  const parsed = Specs.safeParse(json);
  if (!parsed.success) throw new Error(`${file}: ${z.prettifyError(parsed.error)}`);
  return parsed.data.map(({ memoryLimitBytes, cpuLimit, after, ...spec }) => ({
    ...spec,
    ...(after !== undefined && { after }),
    ...(memoryLimitBytes !== undefined && { memoryLimitBytes }),
    ...(cpuLimit !== undefined && { cpuLimit }),
  }));
}

/** Well as long as it answers; how its instances are, they tell themselves. */
async function listen(supervisor: Supervisor, host: string, port: number): Promise<Server> {
  const server = createServer((request, response) => {
    const known = request.url === "/healthz";
    const instances = supervisor.list().map(shown);
    response
      .writeHead(known ? 200 : 404, { "content-type": "application/json" })
      .end(JSON.stringify(known ? { instances } : { error: "there is /healthz" }));
  });
  await new Promise<void>((done, reject) => {
    server.once("error", reject);
    server.listen(port, host, done);
  });
  return server;
}

function shown(endpoint: Endpoint): SupervisedInstance {
  const { id, state, restarts, revision, device, warmupSeconds, tokensPerSecond, message } = endpoint;
  return {
    id,
    state,
    restarts,
    ...(revision !== undefined && { revision }),
    ...(device !== undefined && { device }),
    ...(warmupSeconds !== undefined && { warmup_s: warmupSeconds }),
    ...(tokensPerSecond !== undefined && { tokens_per_second: tokensPerSecond }),
    ...(message !== undefined && { message }),
  };
}

async function close(server: Server): Promise<void> {
  server.closeAllConnections();
  await new Promise((done) => server.close(done));
}
