import { expect } from "vitest";
import { LLMPOOLS } from "../../operator/kinds.ts";
import { makeKubeMetrics } from "../../src/kube/metrics.ts";
import { makeMetrics } from "../../src/lib/metrics.ts";
import { adminClient } from "../support/admin.ts";
import { clusterForTests } from "../support/cluster.ts";
import { operatorAccount, startOperator } from "../support/operator.ts";
import { until } from "../support/pools.ts";
import {
  allAtRest,
  FAKE_H100,
  flip,
  forEach,
  instancePods,
  isStatus,
  nameOf,
  ofPools,
  poolOf,
} from "../support/scaled.ts";
import { ALL_READY } from "../walk/ground.ts";

const cluster = await clusterForTests();
cluster.installCrd();

const POOLS = 12;
const INSTANCES = 3;
/** Writes of a pool's status on its way to rest. */
const STATUS_WRITES = 4;
const FLIPS = 600;
/** A status may be written so often at once, and then once a second. */
const BURST = 4;

cluster.ownTest(
  "many pools cost each its own writes; another operator of them none; a storm of pods few of the status",
  async () => {
    const client = adminClient(cluster);
    const namespace = await cluster.namespace();
    await cluster.addFakeNodes({ count: 4, ...FAKE_H100 });
    const own = await cluster.namespace();
    const options = { kubeconfig: await operatorAccount(cluster, own, ""), ownNamespace: own, ask: ALL_READY };
    const stop = startOperator(options);
    const numbers = Array.from({ length: POOLS }, (_, i) => i);
    const writes = await cluster.recordWrites();
    await forEach(numbers, (i) => client.create(poolOf(namespace, i, INSTANCES)));
    await allAtRest(client, namespace, POOLS);
    const made = ofPools(await writes());
    for (const name of numbers.map(nameOf)) {
      const objects = made.filter((call) => call.name === name || call.name?.startsWith(`${name}-`));
      const written = objects.filter((call) => !isStatus(call)).map(({ resource, name }) => `${resource}/${name}`);
      expect(written.sort()).toEqual([...new Set(written)].sort());
      expect(objects.filter(isStatus).length).toBeLessThanOrEqual(STATUS_WRITES);
    }

    await stop();
    const metrics = makeMetrics();
    const again = await cluster.recordWrites();
    startOperator({ ...options, metrics: makeKubeMetrics(metrics) });
    await until("each pool was looked at again", async () => {
      const done = /^controller_runtime_reconcile_total{.*result="(?:success|requeue_after)"} (\d+)$/gm;
      const counts = [...(await metrics.expose()).matchAll(done)].map(([, count]) => Number(count));
      expect(counts.reduce((sum, count) => sum + count, 0)).toBeGreaterThanOrEqual(POOLS);
    });
    expect(ofPools(await again())).toEqual([]);

    const storm = await cluster.recordWrites();
    const pods = await instancePods(client, namespace);
    await flip(
      client,
      pods.filter(({ metadata }) => metadata.name.startsWith(nameOf(0))),
      FLIPS,
      0,
    );
    await allAtRest(client, namespace, POOLS);
    const told = ofPools(await storm());
    expect(told.filter((call) => !isStatus(call))).toEqual([]);
    expect(new Set(told.map(({ name }) => name))).toEqual(new Set([nameOf(0)]));
    // However fast they come, what is counted is the server's own clock.
    const seconds = ((told.at(-1)?.at ?? 0) - (told[0]?.at ?? 0)) / 1000;
    expect(told.length).toBeLessThanOrEqual(BURST + 1 + seconds);
    expect(told.length).toBeLessThan(FLIPS / 4);
    await forEach(numbers, (i) => client.delete(LLMPOOLS, { namespace, name: nameOf(i) }));
  },
);
