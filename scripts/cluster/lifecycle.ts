import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Api, connect } from "./api.ts";
import { Certificates } from "./certificates.ts";
import { addHolder, type BY_HAND, holders, removeHolder } from "./holders.ts";
import type { Env, Home } from "./home.ts";
import { withLock } from "./lock.ts";
import { CONTROL_PLANE, NODE } from "./modules.ts";
import { installParts } from "./node-needs.ts";
import { start, startedIn } from "./processes.ts";
import { findPrograms } from "./programs.ts";
import { remains, remove } from "./remove.ts";
import { type ClusterFacts, factsFile, startAll } from "./start-all.ts";

/** Who wants a cluster: a process, as long as it lives, or a person, until `down`. */
export type Holder = number | typeof BY_HAND;
/** Takes one line about what is going on. */
export type Say = (line: string) => void;

export interface Wish {
  home: Home;
  env: Env;
  /** A real node too. */
  withNode: boolean;
  holder: Holder;
  say: Say;
}

/** Gives the running cluster, or starts one; removes what a dead one has left. Throws `Unavailable` when programs cannot be had. */
export async function acquire({ home, env, withNode, holder, say }: Wish): Promise<ClusterFacts> {
  const sources = { cache: home.cache, env, say };
  const programs = await findPrograms(CONTROL_PLANE, sources);
  const node = withNode ? await findPrograms(NODE, sources) : undefined;
  if (withNode) await installParts(env, say);
  return locked(home, say, async () => {
    const running = await runningCluster(home);
    const shared = (await holders(home.run)).length > 0;
    if (running && (running.node || !node || shared)) {
      if (node && !running.node)
        say("the cluster that runs has no node, and others use it; `npm run cluster down` ends it");
      await addHolder(home.run, holder);
      return running;
    }
    await remove(home);
    // Before all else, so that a start that is killed in its middle is cleaned up too.
    await addHolder(home.run, process.pid);
    startKeeper(home);
    try {
      const facts = await startAll(home, programs, node);
      await addHolder(home.run, holder);
      if (holder !== process.pid) await removeHolder(home.run, process.pid);
      return facts;
    } catch (error) {
      await remove(home);
      throw error;
    }
  });
}

function startKeeper(home: Home): void {
  start(home.run, "keeper", process.execPath, [
    fileURLToPath(new URL("keeper.ts", import.meta.url)),
    JSON.stringify(home),
  ]);
}

/** Takes a holder back. The cluster goes with its last one. */
export async function release(home: Home, holder: Holder, say: Say): Promise<void> {
  await locked(home, say, async () => {
    await removeHolder(home.run, holder);
    await removeUnheld(home);
  });
}

/** Removes a cluster that nobody holds any more. True when there was something. */
export async function clean(home: Home, say: Say): Promise<boolean> {
  return locked(home, say, () => removeUnheld(home));
}

/** Ends the cluster, whoever holds it. */
export async function down(home: Home, say: Say): Promise<void> {
  await locked(home, say, () => remove(home));
}

/** The cluster that runs with all its parts, if one does. */
export async function runningCluster(home: Home): Promise<ClusterFacts | undefined> {
  const text = await readFile(factsFile(home), "utf8").catch(() => undefined);
  if (text === undefined) return undefined;
  const facts = JSON.parse(text) as ClusterFacts;
  if (!startedIn(home.run).every(({ alive }) => alive)) return undefined;
  return (await apiOf(home, facts).isReady()) ? facts : undefined;
}

export function apiOf({ run }: Home, { server }: ClusterFacts): Api {
  return connect(server, Certificates.at(join(run, "pki")));
}

async function removeUnheld(home: Home): Promise<boolean> {
  if ((await holders(home.run)).length > 0 || remains(home).length === 0) return false;
  await remove(home);
  return true;
}

function locked<T>(home: Home, say: Say, work: () => Promise<T>): Promise<T> {
  return withLock(
    `${home.run}.lock`,
    () => say("another run is starting or ending the test cluster; waiting for it"),
    work,
  );
}
