import { isDeepStrictEqual } from "node:util";
import type { Clock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import { type LocalSecrets, readSecretDir } from "./definition.ts";

/** How often the folders are looked at, in milliseconds: a key that is taken away opens nothing for longer than this. */
const LOOK_EVERY_MS = 2_000;

interface FollowedSecrets {
  /** Folders of `--secret NAME=DIR`. */
  dirs: ReadonlyMap<string, string>;
  /** As they were read last. */
  known: LocalSecrets;
  clock: Clock;
  onChange: (secrets: LocalSecrets) => void;
  /** Once for each different one; what was read before goes on counting. */
  onProblem: (problem: string) => void;
}

export function readSecretDirs(dirs: ReadonlyMap<string, string>): LocalSecrets {
  return Object.fromEntries([...dirs].map(([name, dir]) => [name, readSecretDir(name, dir)]));
}

/**
 * Calls `onChange` whenever the folders hold something else than before. They are looked at, not watched: a kubelet changes a mounted Secret
 * by links, which a watch does not tell. The returned function ends it.
 */
export function followSecrets({ dirs, known, clock, onChange, onProblem }: FollowedSecrets): () => void {
  let seen: LocalSecrets = Object.fromEntries([...dirs.keys()].map((name) => [name, known[name] ?? {}]));
  let problem = "";
  let cancel = () => {};
  const look = () => {
    try {
      const next = readSecretDirs(dirs);
      problem = "";
      if (isDeepStrictEqual(next, seen)) return;
      seen = next;
      onChange(next);
    } catch (error) {
      if (messageOf(error) !== problem) onProblem(messageOf(error));
      problem = messageOf(error);
    }
  };
  const later = () => {
    cancel = clock.after(LOOK_EVERY_MS, () => {
      look();
      later();
    });
  };
  if (dirs.size > 0) later();
  return () => cancel();
}
