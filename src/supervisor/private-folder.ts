import { createHash } from "node:crypto";
import { readlinkSync, rmSync } from "node:fs";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { processStart } from "../lib/process-start.ts";

const REMOVAL = { recursive: true, force: true, maxRetries: 3 } as const;

/** Those of this process. */
const folders = new Set<string>();

/**
 * A folder that only this user may enter, for secrets of this process. It goes with `remove`, when the process exits, or, as nothing runs in one that
 * is killed, when the next process makes one in `parent`.
 */
export async function makePrivateFolder(parent: string): Promise<{ path: string; remove(): Promise<void> }> {
  await removeLeftovers(parent);
  const path = await mkdtemp(join(parent, `${prefix()}${process.pid}-${startOf(process.pid)}-`));
  if (folders.size === 0) process.on("exit", removeAll);
  folders.add(path);
  return {
    path,
    async remove() {
      await rm(path, REMOVAL);
      folders.delete(path);
      if (folders.size === 0) process.off("exit", removeAll);
    },
  };
}

function removeAll(): void {
  for (const path of folders) {
    try {
      rmSync(path, REMOVAL);
    } catch {
      // Instances may write until they notice that this process is gone: the next one removes it.
    }
  }
}

/** Of owners that are dead. What is another user's cannot be removed, and stays. */
async function removeLeftovers(parent: string): Promise<void> {
  const names = await readdir(parent).catch(() => []);
  for (const name of names.filter((name) => name.startsWith(prefix()))) {
    const [pid, start] = name.slice(prefix().length).split("-");
    if (start !== startOf(Number(pid))) await rm(join(parent, name), REMOVAL).catch(() => {});
  }
}

/** Begins every name. Process ids are those of one machine or container: of the others that share the folder nothing is known. */
function prefix(): string {
  return `llmpool-manager-${createHash("sha256").update(`${hostname()} ${pidNamespace()}`).digest("hex").slice(0, 8)}-`;
}

function pidNamespace(): string {
  try {
    return readlinkSync("/proc/self/ns/pid");
  } catch {
    return "";
  }
}

const startOf = (pid: number): string => (processStart(pid) ?? "gone").replace(/[^A-Za-z0-9]/g, "");
