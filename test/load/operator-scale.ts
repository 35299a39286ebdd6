import { readFileSync } from "node:fs";
import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { LLMPOOLS } from "../../operator/kinds.ts";
import { renderPool } from "../../operator/render/render.ts";
import { defaultImages } from "../../operator/render/settings.ts";
import { bundle } from "../../scripts/images/bundle.ts";
import { validatePool } from "../../src/api/validate.ts";
import { planPool } from "../../src/core/plan/plan.ts";
import { processEnv } from "../../src/core/process-env.ts";
import type { Client } from "../../src/kube/client.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { RESOURCES } from "../../src/kube/resource.ts";
import type { Call } from "../support/audit.ts";
import { eventually } from "../support/eventually.ts";
import type { Pool } from "../support/pools.ts";
import {
  allAtRest,
  flip,
  forEach,
  instancePods,
  isAllTold,
  isStatus,
  nameOf,
  ofPools,
  poolOf,
  untilNextLook,
} from "../support/scaled.ts";
import type { Bench, BenchContext, Goal, Row } from "./bench.ts";
import { Child, freePort } from "./child.ts";
import { cpuMicros } from "./cpu.ts";
import { type FakeCluster, fakeCluster } from "./fake-cluster.ts";
import { ratios, summarize } from "./samples.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const MAIN = "test/load/operator-main";
const INSTANCES = 5;
/** A node has cards for eleven of them, and room for eighteen. */
const POOLS_PER_NODE = 4;
const FEW = 20;
const POOLS = 200;
const FLIPS_PER_SECOND = 100;
const FLIP_SECONDS = 20;
/** An even number of each of the first few, so that they end as they began. */
const EDITS = 120;
const STATUS_WRITES = 4;
const LATE_MS = 50;
const FLAT = 1.5;
const BY_HAND = 1.2;
const MEMORY_MIB = 256;
/** No step takes so long; a limit against hanging. */
const HANG_MS = 1_200_000;

/** An operator with many pools on fake nodes: `--pools N` and `--seconds N` (of flips) make it larger. */
export const operatorScale: Bench = {
  name: "operator-scale",
  about: `pools of ${INSTANCES} instances on fake nodes of 8 H100: made, edited, another operator, pods that flap`,
  rounds: 1,
  async run(context) {
    const { pools: count = POOLS, seconds = FLIP_SECONDS, signal, say, rounds } = context;
    await using stack = new AsyncDisposableStack();
    say("builds the operator");
    const main = await built(context.dir);
    const cluster = await fakeCluster(stack, Math.ceil(count / POOLS_PER_NODE), context);
    const floors: number[] = [];
    const made: number[] = [];
    const seen: Measured[] = [];
    for (let round = 0; round < rounds; round++) {
      signal.throwIfAborted();
      say(`round ${round + 1} of ${rounds}: the pods of ${count} pools by hand`);
      floors.push(await byHand(cluster, count, signal));
      say(`round ${round + 1} of ${rounds}: ${count} pools`);
      const measured = await withOperator(cluster, main, count, seconds, context);
      made.push(measured.readySeconds);
      seen.push(measured);
    }
    return {
      columns: ["value", "x floor"],
      rows: rowsOf(seen, floors, made),
      goals: goalsOf(seen, floors, made, seconds),
    };
  },
};

/** What one round gave. */
interface Measured {
  pools: number;
  readySeconds: number;
  /** Of each pool, beyond one for each of its objects. */
  statusWrites: number[];
  doubled: number;
  few: Edits;
  many: Edits;
  restartSeconds: number;
  restartWrites: number;
  /** Of one pool in one second, at most. */
  flipWrites: number;
  flipReconciles: number;
  flipDepth: number;
  flips: number;
  writesPerFlip: number;
  peakMiB: number;
  cpuSecondsPerPool: number;
}

/** Milliseconds, each sorted. */
interface Edits {
  toWrite: number[];
  reconciles: number[];
}

async function withOperator(
  cluster: FakeCluster,
  main: string,
  count: number,
  seconds: number,
  { signal, say }: BenchContext,
): Promise<Measured> {
  const { client } = cluster;
  const namespace = await cluster.namespace();
  const numbers = Array.from({ length: count }, (_, i) => i);
  let operator = await Operator.start(cluster, main, namespace, signal);
  try {
    // The first few tell what an edit costs with few; their writes are counted with all others.
    const writes = await cluster.recordWrites();
    const few = numbers.slice(0, FEW);
    const make = (i: number) => client.create(poolOf(namespace, i, INSTANCES));
    await forEach(few, make, signal);
    await allAtRest(client, namespace, few.length, signal);
    const withFew = await edit(cluster, namespace, operator, few, signal);

    const [began, cpuBefore] = [performance.now(), cpuMicros(operator.pid)];
    await forEach(numbers.slice(few.length), make, signal);
    const made = await allReady(client, namespace, count - few.length, began, signal);
    const cpuSecondsPerPool = (cpuMicros(operator.pid) - cpuBefore) / 1e6 / (count - few.length);
    await allAtRest(client, namespace, count, signal);
    const all = ofPools(await writes());
    say("edits");
    const withMany = await edit(cluster, namespace, operator, numbers, signal);
    await allAtRest(client, namespace, count, signal);

    say("another operator");
    let peakMiB = operator.peakMiB();
    await operator.end();
    const again = await cluster.recordWrites();
    operator = await Operator.start(cluster, main, namespace, signal);
    const restartSeconds = await operator.looked(count, signal);
    const restartWrites = ofPools(await again()).length;

    say(`${FLIPS_PER_SECOND} flips a second for ${seconds} s`);
    const storm = await cluster.recordWrites();
    const before = operator.reconciles.length;
    const depths = operator.watchDepth();
    const pods = await instancePods(client, namespace);
    const flips = seconds * FLIPS_PER_SECOND;
    await flip(client, pods.slice(0, count), flips, FLIPS_PER_SECOND, signal);
    await allAtRest(client, namespace, count, signal);
    const flipDepth = await depths();
    const told = ofPools(await storm());
    peakMiB = Math.max(peakMiB, operator.peakMiB());
    return {
      pools: count,
      readySeconds: (made * count) / (count - few.length),
      ...perPool(all, numbers.slice(few.length)),
      few: withFew,
      many: withMany,
      restartSeconds,
      restartWrites,
      flipWrites: mostInASecond(told),
      flipReconciles: operator.reconciles.length - before,
      flipDepth,
      flips,
      writesPerFlip: told.length / flips,
      peakMiB,
      cpuSecondsPerPool,
    };
  } finally {
    await operator.end();
    await cluster.empty(namespace);
  }
}

/** Seconds until so many more pools than the first few are Ready, whatever is still to be told of them. */
async function allReady(
  client: Client,
  namespace: string,
  count: number,
  began: number,
  signal: AbortSignal,
): Promise<number> {
  await untilPodsReady(client, namespace, count + FEW, signal);
  const areAll = async () => (await readyPools(client, namespace)) === count + FEW;
  await eventually("all are Ready", areAll, HANG_MS, signal);
  return (performance.now() - began) / 1000;
}

async function readyPools(client: Client, namespace: string): Promise<number> {
  const { rows } = await client.table(LLMPOOLS, { namespace });
  await untilNextLook(rows.length);
  return rows.filter(({ cells }) => cells.includes("Ready")).length;
}

/** Deployments of routers come last. */
async function untilPodsReady(client: Client, namespace: string, pools: number, signal: AbortSignal): Promise<void> {
  type Sized = KubeObject & { status?: { readyReplicas?: number } };
  const ready = async (kind: typeof RESOURCES.deployments | typeof RESOURCES.statefulSets, each: number) => {
    const { items } = await client.list<Sized>(kind, { namespace });
    return items.filter(({ status }) => status?.readyReplicas === each).length === pools;
  };
  await eventually(
    "all pods are Ready",
    async () => {
      await untilNextLook(pools);
      return (await ready(RESOURCES.statefulSets, INSTANCES)) && (await ready(RESOURCES.deployments, 1));
    },
    HANG_MS,
    signal,
  );
}

/** What the same pods need: their sets, and the account that routers have. */
const PODS: readonly string[] = ["ServiceAccount", "StatefulSet", "Deployment"];

/** Seconds until the pods of so many pools are Ready, whose objects are applied by hand. */
async function byHand(cluster: FakeCluster, count: number, signal: AbortSignal): Promise<number> {
  const { client } = cluster;
  const namespace = await cluster.namespace();
  const settings = { images: defaultImages("0.0.0-bench"), operatorNamespace: namespace, podMonitors: false };
  const pools = Array.from({ length: count }, (_, i) => {
    const checked = validatePool(poolOf(namespace, i, INSTANCES));
    if (!checked.ok) throw new Error(JSON.stringify(checked.problems));
    return renderPool(checked.pool, planPool(checked.pool), settings).filter(({ kind }) => PODS.includes(kind));
  });
  const make = async (objects: KubeObject[]) => {
    for (const object of objects) await client.apply(object, { fieldManager: "bench" });
  };
  try {
    const began = performance.now();
    await forEach(pools, make, signal);
    await untilPodsReady(client, namespace, count, signal);
    return (performance.now() - began) / 1000;
  } finally {
    await cluster.empty(namespace);
  }
}

/** One edit after another, each of another pool when the one before is at rest, from the edit to the operator's first write of that pool; and how long its reconciles took. */
async function edit(
  { client, recordWrites }: FakeCluster,
  namespace: string,
  operator: Operator,
  pools: readonly number[],
  signal: AbortSignal,
) {
  const writes = await recordWrites();
  const before = operator.reconciles.length;
  for (let i = 0; i < EDITS; i++) {
    const name = nameOf(pools[i % pools.length] ?? 0);
    const place = { namespace, name };
    const instances = INSTANCES + 1 - (Math.floor(i / pools.length) % 2);
    const { metadata } = await client.merge(LLMPOOLS, place, { spec: { instances } });
    await eventually(
      "the edited pool is at rest",
      async () => isAllTold(await client.get<Pool>(LLMPOOLS, place), metadata.generation),
      HANG_MS,
      signal,
    );
  }
  await allAtRest(client, namespace, pools.length, signal);
  const calls = await writes();
  const edits = calls.filter(({ resource, userAgent }) => resource.startsWith("llmpools") && userAgent === "bench");
  const toWrite = edits.map((one) => {
    const first = ofPools(calls).find(({ name, at }) => at > one.at && name === one.name);
    return (first?.at ?? Number.NaN) - one.at;
  });
  return { toWrite: sorted(toWrite), reconciles: sorted(operator.reconciles.slice(before).map((s) => s * 1000)) };
}

const sorted = (values: number[]) => values.sort((a, b) => a - b);
/** By nearest rank. */
const percentile = (values: readonly number[], share: number) =>
  values[Math.max(0, Math.ceil(values.length * share) - 1)] ?? Number.NaN;

/** Status writes of each pool, and how many other objects were written more than once. */
function perPool(calls: readonly Call[], pools: readonly number[]): Pick<Measured, "statusWrites" | "doubled"> {
  const names = new Set(pools.map(nameOf));
  const objects = calls.filter((call) => !isStatus(call) && names.has(call.name?.slice(0, nameOf(0).length) ?? ""));
  const written = new Set(objects.map(({ resource, name }) => `${resource}/${name}`));
  const statusWrites = [...names].map((name) => calls.filter((call) => isStatus(call) && call.name === name).length);
  return { statusWrites, doubled: objects.length - written.size };
}

/** Beyond what may be told at once. */
function mostInASecond(calls: readonly Call[]): number {
  const counts = new Map<string, number>();
  for (const { name, at } of calls) {
    const key = `${name} ${Math.floor(at / 1000)}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return Math.max(0, ...counts.values());
}

function rowsOf(seen: readonly Measured[], floors: number[], made: number[]): Row[] {
  const row = (name: string, samples: number[], note = ""): Row => ({
    name,
    values: [summarize(samples), undefined],
    note,
  });
  const of = (pick: (one: Measured) => number) => seen.map(pick);
  const pools = seen[0]?.pools;
  const ready = (name: string, samples: number[]): Row => ({
    name: `${pools} pools, ${name}, to all Ready, s`,
    values: [summarize(samples), summarize(ratios(samples, floors))],
  });
  return [
    ready("pods by hand (the floor)", floors),
    ready("by the operator", made),
    row(
      "operator's CPU for each pool made, ms",
      of(({ cpuSecondsPerPool }) => cpuSecondsPerPool * 1000),
    ),
    ...[0.5, 0.99].flatMap((share) => [
      row(
        `edit to first write with ${FEW} pools, p${share * 100}, ms`,
        of(({ few }) => percentile(few.toWrite, share)),
      ),
      row(
        `edit to first write with ${pools} pools, p${share * 100}, ms`,
        of(({ many }) => percentile(many.toWrite, share)),
      ),
      row(
        `reconcile with ${FEW} pools, p${share * 100}, ms`,
        of(({ few }) => percentile(few.reconciles, share)),
      ),
      row(
        `reconcile with ${pools} pools, p${share * 100}, ms`,
        of(({ many }) => percentile(many.reconciles, share)),
      ),
    ]),
    row(
      "another operator, to each pool looked at, s",
      of(({ restartSeconds }) => restartSeconds),
    ),
    row(
      "flips of pods",
      of(({ flips }) => flips),
    ),
    row(
      "reconciles for each flip",
      of(({ flips, flipReconciles }) => flipReconciles / flips),
    ),
    row(
      "writes for each flip",
      of(({ writesPerFlip }) => writesPerFlip),
    ),
    row(
      "keys that waited at once during flips, at most",
      of(({ flipDepth }) => flipDepth),
    ),
  ];
}

function goalsOf(seen: readonly Measured[], floors: number[], made: number[], seconds: number): Goal[] {
  const goal = (text: string, limit: number, pick: (one: Measured, round: number) => number): Goal => {
    const measured = summarize(seen.map(pick));
    return { text, measured, kept: measured.median <= limit };
  };
  const flat = (share: number, of: "reconciles") => (one: Measured) =>
    percentile(one.many[of], share) / percentile(one.few[of], share);
  return [
    goal(`all Ready within ${BY_HAND} x the floor`, BY_HAND, (_, round) => (made[round] ?? 0) / (floors[round] ?? 0)),
    goal("no object of a pool is written twice on its way to rest", 0, ({ doubled }) => doubled),
    goal(`at most ${STATUS_WRITES} writes of a pool's status on its way to rest`, STATUS_WRITES, ({ statusWrites }) =>
      Math.max(...statusWrites),
    ),
    goal(`edit to first write at most ${LATE_MS} ms, p99`, LATE_MS, ({ many }) => percentile(many.toWrite, 0.99)),
    goal(`reconciles within ${FLAT} x those with ${FEW} pools, p50`, FLAT, flat(0.5, "reconciles")),
    goal(`reconciles within ${FLAT} x those with ${FEW} pools, p99`, FLAT, flat(0.99, "reconciles")),
    goal("another operator writes nothing", 0, ({ restartWrites }) => restartWrites),
    goal(`at most 4 writes of a pool's status in a second of ${seconds} s of flips`, 4, ({ flipWrites }) => flipWrites),
    goal(`operator's memory below ${MEMORY_MIB} MiB, at its peak`, MEMORY_MIB, ({ peakMiB }) => peakMiB),
  ];
}

/** The operator as JavaScript, as its image has it: to have types taken away at each start costs memory. Returns its main file. */
async function built(dir: string): Promise<string> {
  await bundle({ root: ROOT, programs: [MAIN], external: [], to: dir });
  await copyFile(join(ROOT, "package.json"), join(dir, "package.json"));
  return join(dir, `${MAIN}.js`);
}

/** The operator as a process of its own. */
class Operator {
  /** How long each took, in seconds. */
  readonly reconciles: number[] = [];
  readonly #child: Child;
  readonly #url: string;
  readonly #began = performance.now();

  private constructor(cluster: FakeCluster, main: string, namespace: string, port: number, signal: AbortSignal) {
    let begun = "";
    this.#url = `http://127.0.0.1:${port}`;
    this.#child = new Child({
      file: process.execPath,
      args: [main, cluster.kubeconfig, String(port), namespace],
      // As the image runs it.
      env: processEnv(1),
      signal,
      onOutput: (text) => {
        const lines = (begun + text).split("\n");
        begun = lines.pop() ?? "";
        this.reconciles.push(...lines.map(Number).filter((seconds) => Number.isFinite(seconds)));
      },
    });
  }

  static async start(cluster: FakeCluster, main: string, namespace: string, signal: AbortSignal): Promise<Operator> {
    const operator = new Operator(cluster, main, namespace, await freePort(), signal);
    await operator.#child.answers(`${operator.#url}/readyz`);
    return operator;
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Most resident memory that it ever had. */
  peakMiB(): number {
    return Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${this.pid}/status`, "utf8"))?.[1]) / 1024;
  }

  /** Seconds from its start until so many pools were looked at and no key waits. */
  async looked(pools: number, signal: AbortSignal): Promise<number> {
    await eventually(
      "each pool was looked at",
      async () => this.reconciles.length >= pools && (await this.#depth()) === 0,
      HANG_MS,
      signal,
    );
    return (performance.now() - this.#began) / 1000;
  }

  /** Looks every second how many keys wait; what it returns ends that and gives the most. */
  watchDepth(): () => Promise<number> {
    let most = 0;
    let looking = Promise.resolve();
    const timer = setInterval(() => {
      looking = looking.then(async () => {
        most = Math.max(most, await this.#depth());
      });
    }, 1000);
    return async () => {
      clearInterval(timer);
      await looking;
      return most;
    };
  }

  async #depth(): Promise<number> {
    const text = await (await fetch(`${this.#url}/metrics`)).text();
    return Number(/^workqueue_depth{[^}]*} (\d+)$/m.exec(text)?.[1] ?? 0);
  }

  end(): Promise<void> {
    return this.#child[Symbol.asyncDispose]();
  }
}
