import type { Dispatcher } from "undici";
import type { Clock } from "../lib/clock.ts";
import type { Logger } from "../lib/logger.ts";
import type { DownloadProgress } from "./progress.ts";

/** What every source works with: one resolveModel call's own. */
export interface Context {
  cacheDir: string;
  env: Readonly<Record<string, string | undefined>>;
  signal: AbortSignal;
  log: Logger;
  clock: Clock;
  /** 0 to 1. */
  random: () => number;
  readonly dispatcher: Dispatcher;
  onProgress: (progress: DownloadProgress) => void;
}

/** A model on this machine's disk. `sha256` is of a single file, in lower-case hex, where it is known. */
export interface ResolvedModel {
  /** A file, or a folder with all files of a model. */
  path: string;
  sha256?: string;
  bytes: number;
}
