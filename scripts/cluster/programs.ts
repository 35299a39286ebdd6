import { existsSync } from "node:fs";
import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { processStart } from "../../src/lib/process-start.ts";
import { goBuild } from "./go-build.ts";
import type { Env } from "./home.ts";
import { withLock } from "./lock.ts";
import { moduleOf, type ProgramName } from "./modules.ts";
import { download, releaseOf } from "./official.ts";

/** This machine lacks something for it; the message says what, and the line that gives it. */
export class Unavailable extends Error {
  override name = "Unavailable";
}

export interface Sources {
  /** The cache folder of test clusters. */
  cache: string;
  env: Env;
  /** Takes one line per program that is fetched or built. */
  say: (line: string) => void;
  /** Where a program is published; a test gives its own. */
  releases?: typeof releaseOf;
}

/**
 * The paths of these programs, each from the first source that has it: `KUBEBUILDER_ASSETS`, the cache, the project's own release, its Go
 * module. Throws `Unavailable` when one cannot be had.
 */
export async function findPrograms<N extends ProgramName>(
  names: readonly N[],
  sources: Sources,
): Promise<Record<N, string>> {
  const { cache, env, say } = sources;
  const missing = names.filter((name) => !present(name, cache, env));
  if (missing.length > 0) {
    const other = () => say("another run is building the test cluster's programs; waiting for it");
    await withLock(join(cache, "programs.lock"), other, async () => {
      // The other one may have made some while this one waited.
      const rest = missing.filter((name) => !present(name, cache, env));
      for (const [i, name] of rest.entries()) await make(name, `${i + 1} of ${rest.length}`, sources);
    });
  }
  return Object.fromEntries(names.map((name) => [name, present(name, cache, env)])) as Record<N, string>;
}

function present(name: ProgramName, cache: string, env: Env): string | undefined {
  const given = env.KUBEBUILDER_ASSETS && join(env.KUBEBUILDER_ASSETS, name);
  return [given, cached(name, cache)].find((file) => file && existsSync(file)) || undefined;
}

function cached(name: ProgramName, cache: string): string {
  const { version, hash } = moduleOf(name);
  return join(cache, "programs", `${name}-${version}-${hash}`, name);
}

async function make(name: ProgramName, which: string, sources: Sources): Promise<void> {
  const { cache, env, say, releases = releaseOf } = sources;
  const { version } = moduleOf(name);
  const file = cached(name, cache);
  const dir = join(file, "..");
  await mkdir(dir, { recursive: true });
  await removeUnfinished(dir);
  const made = `${file}.${process.pid}`;
  try {
    const release = releases(name, version, process.platform, process.arch === "x64" ? "amd64" : process.arch);
    if (release && (await download(release, made))) {
      say(`downloaded ${name} ${version} (${which})`);
    } else {
      if (!hasGo(env)) throw new Unavailable(lacking(name, version));
      say(`building ${name} ${version} from its Go module (${which}, once, some minutes)`);
      await goBuild(name, made, env);
    }
    await rename(made, file);
  } finally {
    await rm(made, { force: true });
  }
}

/** What a run that was killed has left. */
async function removeUnfinished(dir: string): Promise<void> {
  for (const file of await readdir(dir)) {
    const pid = Number(file.split(".").at(-1));
    if (pid > 0 && processStart(pid) === undefined) await rm(join(dir, file), { recursive: true, force: true });
  }
}

function hasGo(env: Env): boolean {
  return (env.PATH ?? "").split(delimiter).some((dir) => existsSync(join(dir, "go")));
}

function lacking(name: ProgramName, version: string): string {
  return `${name} ${version} is neither in KUBEBUILDER_ASSETS nor can it be downloaded; install Go 1.26 or later, which builds it`;
}
