import { createHash } from "node:crypto";
import { type FSWatcher, readFileSync, watch } from "node:fs";
import { basename, dirname } from "node:path";
import type { Clock } from "../lib/clock.ts";

/** Editors write in several steps; this long after the last one the file is read. */
const SETTLE_MS = 200;
/** Where the system tells nothing (some network and container mounts), the file is looked at this often. */
const LOOK_EVERY_MS = 2000;

/**
 * Calls `onChange` with the file's text whenever it differs from `known`, the text read last. Watches the folder, because many editors
 * put a new file in place of the old one. A file that is away for a moment is no change; of one that stays away, `onAway` is told why, once.
 * The returned function ends the watch.
 */
export function watchFile(
  file: string,
  known: string,
  clock: Clock,
  onChange: (text: string) => void,
  onAway: (why: string) => void = () => {},
): () => void {
  let hash = sha256(known);
  /** Looks in a row that found no file. */
  let away = 0;
  let cancelSettle = () => {};
  let cancelLook = () => {};

  function look(): void {
    let text: string;
    try {
      text = readFileSync(file, "utf8");
    } catch (error) {
      away += 1;
      const { code, message } = error as NodeJS.ErrnoException;
      if (away === 2) onAway(code === "ENOENT" ? "the file is gone" : message);
      return;
    }
    away = 0;
    const now = sha256(text);
    if (now === hash) return;
    hash = now;
    onChange(text);
  }
  function lookOften(): void {
    cancelLook = clock.after(LOOK_EVERY_MS, () => {
      look();
      lookOften();
    });
  }

  let watcher: FSWatcher | undefined;
  try {
    watcher = watch(dirname(file), { persistent: false }, (_event, name) => {
      if (name !== null && name !== basename(file)) return;
      cancelSettle();
      cancelSettle = clock.after(SETTLE_MS, look);
    });
    // Looking goes on without it.
    watcher.on("error", () => {});
  } catch {
    // Out of watches.
  }
  lookOften();
  return () => {
    watcher?.close();
    cancelSettle();
    cancelLook();
  };
}

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");
