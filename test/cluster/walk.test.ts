import { readFile } from "node:fs/promises";
import { load } from "js-yaml";
import { expect, onTestFinished } from "vitest";
import { renderPool } from "../../operator/render/render.ts";
import { defaultImages } from "../../operator/render/settings.ts";
import type { Schema } from "../../src/api/structural.ts";
import { validatePool } from "../../src/api/validate.ts";
import { planPool } from "../../src/core/plan/plan.ts";
import type { Client } from "../../src/kube/client.ts";
import { ApiError } from "../../src/kube/errors.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { makeLogger } from "../../src/lib/logger.ts";
import { Random } from "../history/random.ts";
import { adminClient } from "../support/admin.ts";
import { clusterForTests } from "../support/cluster.ts";
import { playLoaders } from "../support/loaders.ts";
import { operate, type Pool, until } from "../support/pools.ts";
import { ALL_READY, Ground, judge } from "../walk/ground.ts";
import { mutate, mutationsOf, nameOf } from "../walk/mutations.ts";
import { SEEDS } from "../walk/seeds.ts";

const cluster = await clusterForTests();
cluster.installCrd();

/** `LLMPOOL_SEED=7` chooses other states, `LLMPOOL_WALK=1000` more of them around each pool, `LLMPOOL_WALK=all` all. */
const seed = Number(process.env.LLMPOOL_SEED ?? 1);
const count = process.env.LLMPOOL_WALK === "all" ? Number.POSITIVE_INFINITY : Number(process.env.LLMPOOL_WALK ?? 12);
/** Limits against hanging. */
const ASK_MS = 600_000;
const WALK_MS = Number.isFinite(count) ? 600_000 + count * 60_000 : 2 ** 31 - 1;
/** States with two changes, for each with one. */
const PAIRS = 0.5;
/** Asked for at the same time. */
const TOGETHER = 8;

interface State {
  name: string;
  spec: unknown;
}

/** One that is accepted. */
interface Accepted extends State {
  /** Kinds and names of the objects that it asks for. */
  objects: string;
}

const POOLS = Object.entries(SEEDS);
const taken = new Map<string, Promise<Accepted[]>>();

for (const [backend, from] of POOLS)
  cluster.test(
    `every state around a pool of ${backend} is accepted and can be planned, or refused with its field`,
    async () => {
      const client = adminClient(cluster);
      const asked = acceptedOf(client, await cluster.namespace(), await statesOf(from, new Random(seed)));
      taken.set(backend, asked);
      const states = await asked;
      // Both sides were met.
      expect(states.length).toBeGreaterThan(100);
    },
    ASK_MS,
  );

cluster.ownTest(
  "whatever a pool was before, an accepted edit makes it what a fresh pool of that spec is",
  async () => {
    const client = adminClient(cluster);
    await cluster.addFakeNodes({ count: 6 });
    await cluster.addFakeNodes({ count: 2, gpus: 16 });
    const end = new AbortController();
    const playing = playLoaders(client, end.signal);
    onTestFinished(async () => {
      end.abort();
      await playing;
    });
    const faults: string[] = [];
    const log = makeLogger("error", (line) => faults.push(line));
    const own = await cluster.namespace();
    await operate(cluster, own, { wide: true, ask: ALL_READY, log });
    const problems = await Promise.all(POOLS.map(([backend, from]) => walk(client, backend, from)));
    expect(problems.flat().join("\n"), `LLMPOOL_SEED=${seed}`).toBe("");
    // What the API server refuses is logged, too; anything else is a fault of the operator's.
    expect(faults.filter((line) => !/(GET|PATCH|POST|DELETE) \S+: \d{3} ?\w*: /.test(line))).toEqual([]);
    await until(
      "the operator has nothing left to write",
      async () => {
        const writes = await cluster.recordWrites();
        const mine = async (leases: boolean) =>
          (await writes()).filter(
            ({ userAgent, resource }) =>
              userAgent.startsWith("llmpool-operator/") && resource.startsWith("leases") === leases,
          );
        await until("the Lease is renewed", async () => expect((await mine(true)).length).toBeGreaterThan(2));
        expect(await mine(false)).toEqual([]);
      },
      120_000,
    );
  },
  WALK_MS,
);

/** From the seed to states and back. Returns what was not as it should be. */
async function walk(client: Client, backend: string, from: object): Promise<string[]> {
  const random = new Random(seed);
  const states = variedFirst(random.shuffle((await taken.get(backend)) ?? [])).slice(0, count);
  const [walked = "", ...fresh] = await Promise.all([cluster.namespace(), cluster.namespace(), cluster.namespace()]);
  const ground = new Ground(client, walked, fresh);
  const problems: string[] = [];
  const go = async (what: string, spec: unknown) => {
    const began = performance.now();
    const left = await ground.goTo(spec).catch((error: unknown) => [String(error)]);
    problems.push(...left.slice(0, 3).map((difference) => `${backend}, ${what}: ${difference}`));
    if (process.env.LLMPOOL_LOGS)
      console.log(`${backend} ${Math.round(performance.now() - began)} ms ${what}`, left.slice(0, 3));
  };
  await go("the seed", from);
  for (const { name, spec } of states) {
    await go(name, spec);
    if (random.chance(0.5)) await go(`back from ${name}`, from);
  }
  await go("the seed again", from);
  return problems;
}

/** Half of the first are those that ask for other objects than all before: what is left over shows where objects come and go. */
function variedFirst(states: Accepted[]): Accepted[] {
  const seen = new Set<string>();
  const varied = new Set(
    states.filter(({ objects }) => !seen.has(objects) && seen.add(objects)).slice(0, Math.ceil(count / 2)),
  );
  return [...varied, ...states.filter((state) => !varied.has(state))];
}

async function statesOf(from: object, random: Random): Promise<State[]> {
  const text = await readFile(new URL("../../crds/llmpools.llmpool.dev.yaml", import.meta.url), "utf8");
  const crd = load(text) as { spec: { versions: { schema: { openAPIV3Schema: Schema } }[] } };
  const schema = crd.spec.versions[0]?.schema.openAPIV3Schema.properties?.spec ?? {};
  const all = mutationsOf(schema, from);
  const single = all.map((one) => ({ name: nameOf(one), spec: mutate(from, one) }));
  const double = Array.from({ length: Math.round(all.length * PAIRS) }, () => {
    const [a, b] = [random.pick(all), random.pick(all)];
    return { name: `${nameOf(a)}; ${nameOf(b)}`, spec: mutate(mutate(from, a), b) };
  });
  return [...single, ...double];
}

/** Those that are accepted, of those that are rendered alike one. A refusal says where the fault is. */
async function acceptedOf(client: Client, namespace: string, states: readonly State[]): Promise<Accepted[]> {
  const found = new Map<string, Accepted>();
  const left = [...states];
  const ask = async () => {
    for (let state = left.shift(); state; state = left.shift()) {
      const answer = await judge(client, namespace, state.spec);
      if (!(answer instanceof ApiError)) {
        const wanted = rendered(answer, state.name);
        const objects = wanted.map(({ kind, metadata }) => `${kind} ${metadata.name}`).sort();
        found.set(JSON.stringify(wanted), { ...state, objects: objects.join() });
      } else {
        expect([400, 422], `${state.name}: ${answer.message.slice(0, 300)}`).toContain(answer.status);
        const fields = (answer.details.causes ?? []).map(({ field }) => field ?? "");
        expect([...fields, answer.message].join(" "), state.name).toMatch(/\bspec\b/);
      }
    }
  };
  await Promise.all(Array.from({ length: TOGETHER }, ask));
  const order = new Map(states.map(({ name }, i) => [name, i]));
  return [...found.values()].sort((a, b) => (order.get(a.name) ?? 0) - (order.get(b.name) ?? 0));
}

/** What the operator would make of it. */
function rendered(pool: Pool, name: string): KubeObject[] {
  const { status: _, metadata, ...rest } = pool;
  const checked = validatePool({ ...rest, metadata: { name: metadata.name, namespace: metadata.namespace } });
  if (!checked.ok) throw new Error(`${name}: ${JSON.stringify(checked.problems)}`);
  const settings = { images: defaultImages("0"), operatorNamespace: "x", podMonitors: true };
  try {
    return renderPool(checked.pool, planPool(checked.pool), settings);
  } catch (error) {
    throw new Error(`${name} cannot be rendered`, { cause: error });
  }
}
