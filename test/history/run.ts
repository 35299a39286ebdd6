import { EPISODES, headersOf, runClients } from "./clients.ts";
import { LEASE_MS, runFaults } from "./faults.ts";
import { Followers } from "./followers.ts";
import type { Entry, History } from "./history.ts";
import type { Nursery } from "./processes.ts";
import { Random } from "./random.ts";
import { TENANTS, World } from "./world.ts";

/** Faults begin within this time after the first client, in milliseconds. */
const FAULTS_MS = 4_000;

export interface RunOptions {
  seed: number;
  nursery: Nursery;
  mutant?: string;
  /** How long everybody has to settle what is open when the clients are done, in milliseconds. */
  settleMs: number;
  /** Waits until this run may load the machine; the returned function is called when it does no more. */
  turn: () => Promise<() => void>;
}

export interface Outcome {
  history: History;
  /** What the routers said, for whoever has to find out why. */
  logs: string[];
}

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/**
 * One run: 200 clients of three routers, while things break; then everything is mended, the episodes are finished, and whoever can settles
 * what is open. The seed decides what is asked and broken and when; what the machine makes of it differs from run to run.
 */
export async function run({ seed, nursery, mutant, settleMs, turn }: RunOptions): Promise<Outcome> {
  const random = new Random(seed);
  const free = await turn();
  await using world = await World.start({ seed, random: random.fork(), nursery, mutant });
  using followers = new Followers(world, random.fork());
  const isolated = mutant === undefined && random.chance(0.25) ? random.pick(world.routers) : undefined;
  if (isolated) isolated.isolated = true;
  const [calls] = await Promise.all([
    runClients(world, random.fork()),
    mutant === undefined ? runFaults(world, random.fork(), FAULTS_MS) : undefined,
    pause(random.between(1_000, FAULTS_MS)).then(() => {
      if (isolated) world.note("router cut off until the others have settled what it holds");
      isolated?.wire.partition();
    }),
  ]).finally(free);

  // A router that is gone is given up when its lease is over, and then some.
  if (mutant === undefined) world.stepServer(LEASE_MS);
  const open = () => {
    world.file.read();
    return [...world.file.open.keys()];
  };
  const settled = async (ms: number) => {
    for (const until = performance.now() + ms; open().length > 0 && performance.now() < until; ) await pause(100);
  };
  if (isolated) {
    await settled(settleMs / 2);
    world.note("it is back");
    isolated.wire.heal();
  }
  await finishEpisodes(world, random);
  await settled(settleMs);
  const began = new Set(world.file.entries.flatMap((e) => (e.kind === "event" ? [e.episode] : [])));
  const streams = await followers.streams(began, settleMs);
  return {
    history: {
      always: ["b:pool/", "b:key/"],
      ...{ calls, open: open(), runs: world.runs(), forgotten: world.file.forgotten },
      // What clients were told and a copy has forgotten is told again under the same numbers.
      streams: world.file.forgotten.length > 0 ? [] : streams,
      entries: inOrder(world.file.entries, world.seen),
    },
    logs: world.logs(),
  };
}

/** All episodes end, each told so at two routers at once; whoever cannot be reached is asked again. */
async function finishEpisodes(world: World, random: Random): Promise<void> {
  const finish = async (tenant: string, id: string) => {
    for (let attempt = 0; attempt < 200; attempt++) {
      const { url } = random.pick(world.routers);
      const answer = await fetch(`${url}/v1/episodes/${id}/finish`, {
        method: "POST",
        headers: headersOf(tenant),
        body: "{}",
      }).catch(() => undefined);
      await answer?.text();
      if (answer && answer.status < 500) return;
      await pause(200);
    }
    throw new Error(`the episode ${id} of ${tenant} cannot be finished`);
  };
  const all = TENANTS.flatMap((tenant) => EPISODES.map((id): [string, string] => [tenant, id]));
  await Promise.all([...all, ...all].map(([tenant, id]) => finish(tenant, id)));
}

/** What the store has written was so before what was seen at the same length of its file. */
function inOrder(stored: readonly Entry[], seen: readonly Entry[]): Entry[] {
  return [...stored, ...seen].sort((a, b) => a.at - b.at);
}
