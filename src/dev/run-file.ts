import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { processStart } from "../lib/process-start.ts";

/** `<state>/dev.json`: who serves this state directory, and where. Other commands find the router by it. */
export interface RunFile {
  pid: number;
  /** Tells a process from a later one with the same pid. */
  start: string;
  pool: string;
  /** Of the router; empty while it starts. */
  url: string;
}

const path = (stateDir: string): string => join(stateDir, "dev.json");

/** The living `llmpool dev` of a state directory. */
export function readRunFile(stateDir: string): RunFile | undefined {
  try {
    const run = JSON.parse(readFileSync(path(stateDir), "utf8")) as RunFile;
    return processStart(run.pid) === run.start ? run : undefined;
  } catch {
    return undefined;
  }
}

/** Makes the state directory this process's own, or throws and names the process that has it. */
export function claimStateDir(stateDir: string, pool: string): { publish(url: string): void; release(): void } {
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  const own: RunFile = { pid: process.pid, start: processStart(process.pid) ?? "", pool, url: "" };
  const draft = `${path(stateDir)}.${process.pid}`;
  const write = () => writeFileSync(draft, `${JSON.stringify(own)}\n`, { mode: 0o600 });
  try {
    write();
    claim(draft, stateDir);
  } finally {
    rmSync(draft, { force: true });
  }
  return {
    publish(url) {
      own.url = url;
      writeFileSync(path(stateDir), `${JSON.stringify(own)}\n`, { mode: 0o600 });
    },
    release: () => rmSync(path(stateDir), { force: true }),
  };
}

/** A link appears whole or not at all, and only where there is none. */
function claim(draft: string, stateDir: string): void {
  for (let tries = 0; tries < 3; tries++) {
    try {
      linkSync(draft, path(stateDir));
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    const other = readRunFile(stateDir);
    if (other) {
      throw new Error(
        `${stateDir} is in use by llmpool dev with process id ${other.pid} (pool ${other.pool}): end that one, or give another --state`,
      );
    }
    rmSync(path(stateDir), { force: true });
  }
  throw new Error(`${stateDir} is being claimed by several processes at once: try again`);
}
