import { expect, onTestFinished, test } from "vitest";
import { eventually } from "../../test/support/eventually.ts";
import { FakeKube } from "../../test/support/fake-kube.ts";
import { manifest } from "../../test/support/pool.ts";
import type { PoolPlan } from "../core/plan/types.ts";
import type { KubeObject } from "../kube/object.ts";
import { systemClock } from "../lib/clock.ts";
import { silentLogger } from "../lib/logger.ts";
import { WatchedPool } from "./watched-pool.ts";

const POOLS = "llmpool.dev/v1alpha1/llmpools";

test("a pool with fields of a later release is followed by what is known of it", async () => {
  const kube = await FakeKube.start();
  const plans: PoolPlan[] = [];
  const watched = new WatchedPool({
    credentials: kube.credentials,
    namespace: "default",
    name: "apex",
    userAgent: "test",
    clock: systemClock,
    random: Math.random,
    log: silentLogger,
    onPlan: (plan) => plans.push(plan),
    onAddresses: () => {},
  });
  onTestFinished(async () => {
    await watched.close();
    await kube.close();
  });
  const pool = manifest({ backend: "stub", instances: 1, later: { a: 1 } }) as never as KubeObject;
  kube.store.create(POOLS, { ...pool, metadata: { ...pool.metadata, namespace: "default", generation: 1 } });
  const first = await watched.start(new AbortController().signal);
  expect(first.variants[0]?.instances).toHaveLength(1);
  const spec = { backend: "stub", instances: 2, roles: [{ name: "planner", later: true }], later: { a: 2 } };
  kube.store.merge(POOLS, "default/apex", { spec, metadata: { generation: 2 } });
  await eventually("the edit is followed", () => plans.at(-1)?.variants[0]?.instances.length === 2);
});
