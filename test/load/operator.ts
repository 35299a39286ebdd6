import type { V1StatefulSet } from "@kubernetes/client-node";
import { LLMPOOLS, OWNED } from "../../operator/kinds.ts";
import type { LLMPool } from "../../src/api/llmpool.ts";
import { API_VERSION, KIND, LABELS } from "../../src/api/names.ts";
import type { Client } from "../../src/kube/client.ts";
import type { KubeObject, ObjectOf } from "../../src/kube/object.ts";
import { RESOURCES } from "../../src/kube/resource.ts";
import { eventually } from "../support/eventually.ts";
import type { Bench, Goal } from "./bench.ts";
import { type InstalledChart, installChart } from "./installed-chart.ts";
import { ratios, summarize } from "./samples.ts";

const INSTANCES = 5;
const RATIO_LIMIT = 1.5;
/** Writes of a pool's status on its way to Ready. */
const STATUS_WRITES = 4;
const MEMORY_LIMIT_MB = 150;
/** No start takes so long; a limit against hanging. */
const HANG_MS = 300_000;
const NAME = "apex";

type Set = ObjectOf<V1StatefulSet>;
type Pool = KubeObject & Pick<LLMPool, "status">;

/** What one round of a pool gave. */
interface PoolRound {
  readyMs: number;
  firstWriteMs: number;
  /** Writes beyond one for each object and those allowed for the status; 0 or less is good. */
  writes: number;
  objects: number;
  memoryMb: number;
  set: Set;
}

/** A pool of the operator beside the StatefulSet that it makes, applied by hand. */
export const operator: Bench = {
  name: "operator",
  about: `apply of a stub pool with ${INSTANCES} instances to Ready, on a real node, beside its StatefulSet applied by hand to all pods Ready`,
  rounds: 3,
  async run({ rounds, signal, say }) {
    await using stack = new AsyncDisposableStack();
    const chart = await installChart(stack, say);
    const pools: PoolRound[] = [];
    const floors: number[] = [];
    // Not counted: what a first start of everything reads from disk.
    const { set } = await poolRound(chart, signal);
    for (let round = 0; round < rounds; round++) {
      signal.throwIfAborted();
      say(`round ${round + 1} of ${rounds}`);
      // In turn first and second, so that what grows on the way favours neither.
      if (round % 2 === 0) floors.push(await floorRound(chart, set, signal));
      pools.push(await poolRound(chart, signal));
      if (round % 2 === 1) floors.push(await floorRound(chart, set, signal));
    }
    const of = (pick: (round: PoolRound) => number) => pools.map(pick);
    const ready = of(({ readyMs }) => readyMs);
    const first = of(({ firstWriteMs }) => firstWriteMs);
    const row = (name: string, samples: number[]) => ({
      name,
      values: [summarize(samples), summarize(ratios(samples, floors))],
    });
    return {
      columns: ["ms", "x floor"],
      rows: [
        row("StatefulSet by hand, to all pods Ready (the floor)", floors),
        row("pool, to Ready", ready),
        row("edit, to the operator's first write", first),
      ],
      goals: [
        atMost(`pool to Ready at most ${RATIO_LIMIT} x the floor`, ratios(ready, floors), RATIO_LIMIT),
        atMost(
          `writes to Ready at most one for each of ${pools[0]?.objects} objects, and ${STATUS_WRITES}`,
          of(({ writes }) => writes),
          (pools[0]?.objects ?? 0) + STATUS_WRITES,
        ),
        atMost(
          `operator's memory with one pool below ${MEMORY_LIMIT_MB} MB`,
          of(({ memoryMb }) => memoryMb),
          MEMORY_LIMIT_MB,
        ),
      ],
    };
  },
};

function atMost(text: string, samples: number[], limit: number): Goal {
  const measured = summarize(samples);
  return { text, measured, kept: measured.median <= limit };
}

async function poolRound(chart: InstalledChart, signal: AbortSignal): Promise<PoolRound> {
  const { client } = chart;
  const namespace = await chart.namespace();
  const place = { namespace, name: NAME };
  const calls = await chart.recordWrites();
  const mine = async () => (await calls()).filter(({ user, namespace: at }) => user === chart.user && at === namespace);
  const pool = {
    apiVersion: API_VERSION,
    kind: KIND,
    metadata: place,
    spec: { backend: "stub", instances: INSTANCES, drainSeconds: 0, store: { ephemeral: true } },
  };
  const began = performance.now();
  await client.create(pool);
  const ready = async () => isReady(await client.get<Pool>(LLMPOOLS, place));
  await eventually("the pool is Ready", ready, HANG_MS, signal);
  const readyMs = performance.now() - began;
  const writes = (await mine()).filter(({ resource }) => !resource.startsWith("events"));
  const objects = (await Promise.all([...OWNED, RESOURCES.secrets].map((kind) => client.list(kind, { namespace }))))
    .flatMap(({ items }) => items)
    .filter(({ metadata }) => metadata.labels?.[LABELS.pool] === NAME).length;
  const set = await client.get<Set>(RESOURCES.statefulSets, place);
  const memoryMb = Number(/^process_resident_memory_bytes (\S+)$/m.exec(await chart.metrics())?.[1]) / 1e6;

  const before = (await mine()).length;
  const edited = performance.now();
  await client.merge(LLMPOOLS, place, { spec: { contextTokens: 512 } });
  await eventually("the operator writes", async () => (await mine()).length > before, HANG_MS, signal);
  const firstWriteMs = performance.now() - edited;
  await client.delete(LLMPOOLS, place, { propagation: "Foreground" });
  await gone(client, namespace, signal);
  return { readyMs, firstWriteMs, writes: writes.length, objects, memoryMb, set };
}

function isReady({ metadata, status }: Pool): boolean {
  const ready = status?.conditions?.find(({ type }) => type === "Ready");
  return ready?.status === "True" && ready.observedGeneration === metadata.generation;
}

/** The same StatefulSet, without an operator that looks at it, with what its pods mount. */
async function floorRound(chart: InstalledChart, { metadata, spec }: Set, signal: AbortSignal): Promise<number> {
  const { client } = chart;
  const namespace = await chart.namespace();
  const place = { namespace, name: metadata.name };
  const secret = { apiVersion: "v1", kind: "Secret", metadata: { namespace, name: `${NAME}-token` } };
  await client.create({ ...secret, stringData: { token: "bench" } });
  const template = spec?.template;
  const { [LABELS.managedBy]: _, ...labels } = template?.metadata?.labels ?? {};
  const set = {
    apiVersion: "apps/v1",
    kind: "StatefulSet",
    metadata: place,
    spec: { ...spec, template: { ...template, metadata: { ...template?.metadata, labels } } },
  };
  const began = performance.now();
  await client.create(set);
  await eventually(
    "all pods are Ready",
    async () => (await client.get<Set>(RESOURCES.statefulSets, place)).status?.readyReplicas === INSTANCES,
    HANG_MS,
    signal,
  );
  const ms = performance.now() - began;
  await client.delete(RESOURCES.statefulSets, place, { propagation: "Foreground" });
  await gone(client, namespace, signal);
  return ms;
}

/** Before the next round begins, which the ends of these pods would slow down. */
async function gone(client: Client, namespace: string, signal: AbortSignal): Promise<void> {
  const left = async () => (await client.list(RESOURCES.pods, { namespace })).items.length;
  await eventually("its pods are gone", async () => (await left()) === 0, HANG_MS, signal);
}
