import { availableParallelism, homedir, totalmem } from "node:os";
import { resolve } from "node:path";
import type { Command } from "commander";
import { startCommand } from "../../dev/hints.ts";
import { readRunFile } from "../../dev/run-file.ts";
import { availableCpus } from "../../lib/cpus.ts";
import { defaultCacheDir } from "../../models/cache-dir.ts";
import { findMemoryGroups } from "../../supervisor/memory-group.ts";
import { type ClusterFlags, meansCluster, openCluster, withCluster } from "../cluster-access.ts";
import { checkDevice } from "../doctor/device.ts";
import type { Finding } from "../doctor/finding.ts";
import { checkCpus, checkGroupKill, checkMemory, checkMemoryLimits, checkNode } from "../doctor/machine.ts";
import { checkCertificates, checkPackages, checkProxy } from "../doctor/network.ts";
import { checkCache, checkPort } from "../doctor/places.ts";
import { portNumber } from "../flags.ts";
import type { CliIo } from "../io.ts";
import { format, type Output, outputFormat } from "../output.ts";
import { packageVersion } from "../version.ts";

interface DoctorFlags extends ClusterFlags {
  cluster?: boolean;
  port: number;
  state: string;
  output?: Output;
}

/** `llmpool doctor`: each line says ok, info, warn or fail; exit code 1 when one fails. It changes nothing. */
export function registerDoctor(program: Command, io: CliIo): void {
  withCluster(program.command("doctor"))
    .description("check what this machine has for running pools, or a cluster, and say how to cure what is missing")
    .option("--cluster", "check the cluster of the kubeconfig, not this machine")
    .option("--port <port>", "the port that the router would take", portNumber, 8080)
    .option("--state <dir>", "state directory of llmpool dev", ".llmpool")
    .option("-o, --output <format>", "yaml or json, for programs", outputFormat)
    .action(async (flags: DoctorFlags) => {
      const findings: Finding[] = [];
      // All at once, told in their order; one that is cut off before its turn is reported then.
      const running = checks(flags, io).map(async (check) => check);
      for (const check of running) check.catch(() => {});
      for (const check of running) {
        for (const finding of [await check].flat()) {
          if (finding === undefined) continue;
          findings.push(finding);
          if (flags.output === undefined) io.stdout(line(finding));
        }
      }
      if (flags.output !== undefined) io.stdout(format(findings, flags.output));
      if (findings.some((finding) => finding.level === "fail")) io.setExitCode(1);
    });
}

type Found = Finding | undefined | Finding[];

function checks(flags: DoctorFlags, io: CliIo): (Found | Promise<Found>)[] {
  if (flags.cluster || meansCluster(flags, io)) return [clusterChecks(flags, io)];
  const { port, state } = flags;
  const cacheDir = defaultCacheDir(io.env, process.platform, homedir());
  const kill = (pid: number) => void process.kill(pid, "SIGKILL");
  const groups = process.platform === "linux" ? findMemoryGroups({ pid: process.pid, kill }) : undefined;
  return [
    checkNode(process.version),
    checkCpus(availableCpus(), availableParallelism()),
    checkMemory(
      Math.min(process.availableMemory(), totalmem()),
      Math.min(process.constrainedMemory() || Infinity, totalmem()),
    ),
    checkMemoryLimits(groups?.version, process.platform, startCommand(io.env)),
    checkGroupKill(),
    checkDevice(io.env, io.signal),
    checkCache(cacheDir),
    checkPort(port, readRunFile(resolve(io.cwd, state))?.pid, startCommand(io.env, "--port 8081")),
    checkPackages(cacheDir, io.env, io.signal),
    checkProxy(io.env),
    checkCertificates(io.env),
  ];
}

async function clusterChecks(flags: DoctorFlags, io: CliIo): Promise<Finding[]> {
  const { checkCluster } = await import("../doctor/cluster.ts");
  await using stack = new AsyncDisposableStack();
  return await checkCluster(await openCluster(stack, flags, io), packageVersion(), io.signal);
}

function line({ level, subject, detail, cure }: Finding): string {
  const text = `${level.padEnd(4)}  ${subject.padEnd(13)}  ${detail}\n`;
  return cure === undefined ? text : `${text}${" ".repeat(21)}-> ${cure}\n`;
}
