import { createHash } from "node:crypto";
import { type FileHandle, mkdir, open, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { StartError } from "../api/instance.ts";
import type { Context, ResolvedModel } from "./context.ts";
import { withLock } from "./lock.ts";
import { ProgressMeter } from "./progress.ts";

/** What is known about a file of the cache; kept beside it as `<file>.llmpool`. */
interface Facts {
  sha256: string;
  bytes: number;
}

/** The cached file, when it is complete. With `sha256`, only a file that has it. */
export async function complete(path: string, sha256?: string): Promise<ResolvedModel | undefined> {
  const info = await stat(path).catch(() => undefined);
  if (!info?.isFile()) return undefined;
  const facts = await readJson<Facts>(`${path}.llmpool`);
  // A file whose size changed after it was published is damaged; fetching it again is the cure.
  if (!facts || facts.bytes !== info.size) return undefined;
  if (sha256 !== undefined && facts.sha256 !== sha256) return undefined;
  return { path, ...facts };
}

/**
 * Makes a finished file visible: checked, flushed, its facts written first, renamed last. So a file under its own name is always whole.
 * @param part the finished file, in the same folder.
 */
export async function publish(part: string, path: string, facts: Facts): Promise<ResolvedModel> {
  if (path.endsWith(".gguf")) await checkMagic(part, path);
  await replaceFile(`${path}.llmpool`, JSON.stringify(facts));
  await rename(part, path);
  await rm(`${part}.json`, { force: true });
  return { path, ...facts };
}

/**
 * Takes a model from the cache (`find`), or lets `fetch` put it there while no other process does. A process that waits reports the
 * other's progress, as `peek` reads it from the unfinished file.
 * @param want.key names the lock: unique for what is fetched.
 */
export async function cached(
  context: Context,
  want: {
    key: string;
    name: string;
    find: () => Promise<ResolvedModel | undefined>;
    peek: () => Promise<{ bytes: number; total?: number }>;
  },
  fetch: () => Promise<ResolvedModel>,
): Promise<ResolvedModel> {
  const hit = await want.find();
  if (hit) return hit;
  const locks = join(context.cacheDir, "locks");
  await makeFolder(locks);
  const meter = new ProgressMeter(want.name, context.clock, context.onProgress, true);
  return withLock(
    join(locks, createHash("sha256").update(want.key).digest("hex").slice(0, 32)),
    {
      clock: context.clock,
      signal: context.signal,
      whileWaiting: async () => {
        const { bytes, total } = await want.peek();
        meter.at(bytes, total);
      },
    },
    async () => (await want.find()) ?? (await fetch()),
  );
}

export async function readJson<T>(path: string): Promise<T | undefined> {
  try {
    return JSON.parse(await readFile(path, "utf8")) as T;
  } catch {
    return undefined; // absent or damaged: both mean that nothing is known
  }
}

/** Writes a small file so that readers see the old or the new content, never a part. */
export async function replaceFile(path: string, text: string): Promise<void> {
  const draft = `${path}.${process.pid}.tmp`;
  try {
    await writeFile(draft, text);
    await rename(draft, path);
  } finally {
    await rm(draft, { force: true });
  }
}

export async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true });
  } catch (error) {
    throw diskError(error, path);
  }
}

/** A file error as something a person can act on. */
export function diskError(error: unknown, path: string): unknown {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  const cure = "set LLMPOOL_CACHE to another folder (on a cluster: raise model.cache.storage)";
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new StartError("ModelDownloadFailed", `the disk of ${path} is full: free space, or ${cure}`, {
      cause: error,
    });
  }
  if (code === "EACCES" || code === "EPERM" || code === "EROFS" || code === "ENOTDIR" || code === "EEXIST") {
    return new StartError("ModelDownloadFailed", `the model cache ${path} cannot be written (${code}): ${cure}`, {
      cause: error,
    });
  }
  return error;
}

async function checkMagic(part: string, path: string): Promise<void> {
  const head = Buffer.alloc(4);
  let file: FileHandle | undefined;
  try {
    file = await open(part, "r");
    await file.read(head, 0, 4, 0);
  } finally {
    await file?.close();
  }
  if (head.toString("latin1") === "GGUF") return;
  await rm(part, { force: true });
  throw new StartError(
    "ModelInvalid",
    `what was fetched as ${path} is no GGUF file: check that model.uri leads to the file itself`,
  );
}
