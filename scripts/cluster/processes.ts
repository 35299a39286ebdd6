import { execFileSync, spawn } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { processStart } from "../../src/lib/process-start.ts";

/**
 * Every process of a cluster, and every child that one makes, carries this in its environment with the cluster's folder. So what a crashed
 * run has left is found without a record of it.
 */
const MARK = "LLMPOOL_CLUSTER_FOLDER";

export interface Started {
  name: string;
  pid: number;
  /** True until it ended. */
  alive: () => boolean;
  /** The end of what it wrote, for a person who wonders why it ended. */
  log: () => string;
}

/** Starts a program in the background, in a session of its own, writing to `logs/<name>.log` of the cluster's folder. */
export function start(run: string, name: string, file: string, args: readonly string[]): Started {
  mkdirSync(join(run, "logs"), { recursive: true });
  const log = logOf(run, name);
  const fd = openSync(log, "a");
  const env = { PATH: process.env.PATH, HOME: process.env.HOME, [MARK]: run };
  const child = spawn(file, args, { detached: true, stdio: ["ignore", fd, fd], env });
  closeSync(fd);
  child.on("error", () => {}); // `alive` is false then
  child.unref();
  mkdirSync(join(run, "started"), { recursive: true });
  writeFileSync(join(run, "started", name), String(child.pid ?? 0));
  return {
    name,
    pid: child.pid ?? 0,
    alive: () => child.pid !== undefined && child.exitCode === null && child.signalCode === null,
    log: () => readFileSync(log, "utf8").trim().split("\n").slice(-15).join("\n"),
  };
}

const logOf = (run: string, name: string): string => join(run, "logs", `${name}.log`);

/** Waits until `check` is true. Throws when one of `needed` ends before, with the end of its log, or when `limitMs` has passed. */
export async function until(
  what: string,
  needed: readonly Started[],
  check: () => boolean | Promise<boolean>,
  limitMs = 120_000,
): Promise<void> {
  const end = performance.now() + limitMs;
  let last: unknown;
  while (performance.now() < end) {
    const dead = needed.find((p) => !p.alive());
    if (dead) throw new Error(`${dead.name} ended while the test cluster waited for ${what}:\n${dead.log()}`);
    try {
      if (await check()) return;
    } catch (error) {
      last = error;
    }
    await sleep(50);
  }
  const logs = needed.map((p) => `${p.name}:\n${p.log()}`).join("\n");
  throw new Error(`the test cluster waited ${limitMs / 1000} s for ${what}\n${logs}`, { cause: last });
}

/** Ends a program that `start` has started under this name, if it is there, and forgets it with its log: the cluster is whole without it. */
export async function stop(run: string, name: string): Promise<void> {
  const pid = startedIn(run).find((started) => started.name === name)?.pid;
  while (pid !== undefined && processesOf(run).some((process) => process.pid === pid)) {
    kill(pid);
    await sleep(20);
  }
  for (const file of [join(run, "started", name), logOf(run, name)]) rmSync(file, { force: true });
}

/** The programs that `start` has started for this cluster, with what became of them. */
export function startedIn(run: string): { name: string; pid: number; alive: boolean }[] {
  const dir = join(run, "started");
  const alive = new Set(processesOf(run).map(({ pid }) => pid));
  const names = existsSync(dir) ? readdirSync(dir) : [];
  return names.map((name) => {
    const pid = Number(readFileSync(join(dir, name), "utf8"));
    return { name, pid, alive: alive.has(pid) };
  });
}

/** The living processes of the cluster in this folder, whoever started them. */
export function processesOf(run: string): { pid: number; name: string }[] {
  return process.platform === "linux" ? fromProc(run) : fromPs(run);
}

function fromProc(run: string): { pid: number; name: string }[] {
  const mark = `${MARK}=${run}`;
  const found = [];
  for (const pid of readdirSync("/proc").map(Number)) {
    if (!(pid > 0)) continue;
    try {
      if (!readFileSync(`/proc/${pid}/environ`, "latin1").split("\0").includes(mark)) continue;
      if (processStart(pid) === undefined) continue;
      const [program = "", ...args] = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
      found.push({ pid, name: nameOf(program, args) });
    } catch {
      // Ended meanwhile, or another user's.
    }
  }
  return found;
}

function fromPs(run: string): { pid: number; name: string }[] {
  const lines = execFileSync("ps", ["-axEww", "-o", "pid=,command="], { encoding: "utf8" }).split("\n");
  return lines.flatMap((line) => {
    const [pid, program = "", ...args] = line.trim().split(/\s+/);
    return args.includes(`${MARK}=${run}`) ? [{ pid: Number(pid), name: nameOf(program, args) }] : [];
  });
}

/** A script's name says more than its interpreter's. */
function nameOf(program: string, args: string[]): string {
  return basename(args.find((arg) => /\.(ts|sh)$/.test(arg)) ?? program);
}

/** Ends every process of the cluster but this one, and returns when they are gone. Nothing of a test cluster is worth a soft end. */
export async function killAll(run: string): Promise<void> {
  for (;;) {
    const left = processesOf(run).filter(({ pid }) => pid !== process.pid);
    if (left.length === 0) return;
    for (const { pid } of left) kill(pid);
    await sleep(20);
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // Ended meanwhile.
  }
}
