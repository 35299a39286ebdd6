import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { StartError } from "../api/instance.ts";
import { messageOf } from "../lib/errors.ts";
import type { ResolvedModel } from "./context.ts";

/** `file://` and `pvc://`: what lies there already, a file or a folder. `sha256` is checked each time, and only for a file. */
export async function fromDisk(path: string, sha256: string | undefined, signal: AbortSignal): Promise<ResolvedModel> {
  const info = await stat(path).catch((error: unknown) => {
    throw new StartError("ModelNotFound", `no model at ${path} (${messageOf(error)}): check model.uri`, {
      cause: error,
    });
  });
  if (info.isDirectory()) {
    if (sha256 !== undefined) {
      throw new StartError("ConfigInvalid", `model.sha256 is of one file, and ${path} is a folder: leave it out`);
    }
    return { path, bytes: await folderBytes(path) };
  }
  if (!info.isFile()) throw new StartError("ModelInvalid", `${path} is neither a file nor a folder: check model.uri`);
  if (sha256 === undefined) return { path, bytes: info.size };
  const actual = await sha256OfFile(path, signal);
  if (actual !== sha256) {
    throw new StartError("ModelInvalid", `${path} has sha256 ${actual}, and model.sha256 is ${sha256}`);
  }
  return { path, sha256, bytes: info.size };
}

export async function sha256OfFile(path: string, signal: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { signal, highWaterMark: 2 ** 20 })) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

/** Bytes of the files right in a folder: a model's folder has no others that count. */
async function folderBytes(path: string): Promise<number> {
  let bytes = 0;
  for (const entry of await readdir(path, { withFileTypes: true })) {
    if (!entry.isDirectory()) bytes += (await stat(join(path, entry.name))).size;
  }
  return bytes;
}
