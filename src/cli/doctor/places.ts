import { constants } from "node:fs";
import { access, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { tryPort } from "../../dev/port.ts";
import { messageOf } from "../../lib/errors.ts";
import { type Finding, fail, info, ok, warn } from "./finding.ts";

const GIB = 2 ** 30;

export async function checkCache(dir: string): Promise<Finding> {
  // It is made when the first model comes; until then the folder above it decides.
  const there = await nearest(dir);
  try {
    await access(there, constants.W_OK | constants.X_OK);
    const { bavail, bsize } = await statfs(there);
    const free = `${((bavail * bsize) / GIB).toFixed(1)} GiB free`;
    if (bavail * bsize >= GIB) return ok("model cache", `${dir}, ${free}`);
    return warn("model cache", `${dir}, ${free}`, "free space, or set LLMPOOL_CACHE to another disk");
  } catch (error) {
    return fail(
      "model cache",
      `${dir} cannot be written (${messageOf(error)})`,
      "set LLMPOOL_CACHE to a folder of yours",
    );
  }
}

/** `running` is the process id of a pool of ours, if one runs here; `cure` how to start one on another port. */
export async function checkPort(port: number, running: number | undefined, cure: string): Promise<Finding> {
  const failure = await tryPort(port);
  if (failure === undefined) return ok("port", `${port} is free`);
  if (running !== undefined) return info("port", `${port} is taken; llmpool dev runs here (process ${running})`);
  return warn("port", `${port} cannot be used: ${failure.message}`, `give another: ${cure}`);
}

async function nearest(dir: string): Promise<string> {
  for (let at = dir; ; at = dirname(at)) {
    const there = await access(at).then(
      () => true,
      (error: NodeJS.ErrnoException) => error.code !== "ENOENT",
    );
    if (there || at === dirname(at)) return at;
  }
}
