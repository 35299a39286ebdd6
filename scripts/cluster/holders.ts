import { mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { processStart } from "../../src/lib/process-start.ts";

/** The holder that a person is: from `npm run cluster up` to `down`. */
export const BY_HAND = "by-hand";

/**
 * Who wants the cluster: a file per holder, named by pid and start, so that a holder that was killed holds no longer. The cluster goes when
 * nobody holds it.
 */
export async function addHolder(run: string, pid: number | typeof BY_HAND): Promise<void> {
  const dir = join(run, "holders");
  await mkdir(dir, { recursive: true });
  await writeFile(join(dir, nameOf(pid)), "");
}

export async function removeHolder(run: string, pid: number | typeof BY_HAND): Promise<void> {
  await rm(join(run, "holders", nameOf(pid)), { force: true });
}

/** The holders that live. */
export async function holders(run: string): Promise<string[]> {
  const names = await readdir(join(run, "holders")).catch(() => []);
  return names.filter((name) => name === BY_HAND || (lives(name) && nameOf(pidOf(name)) === name));
}

function lives(name: string): boolean {
  return processStart(pidOf(name)) !== undefined;
}

function pidOf(name: string): number {
  return Number.parseInt(name, 10);
}

function nameOf(pid: number | typeof BY_HAND): string {
  return pid === BY_HAND ? BY_HAND : `${pid}-${(processStart(pid) ?? "").replaceAll(/\W/g, "_")}`;
}
