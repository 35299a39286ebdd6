import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { FakeKube, type Fault } from "../support/fake-kube.ts";
import type { Stored } from "../support/fake-kube-store.ts";
import { MiniOperator, type MiniOptions, miniPool } from "../support/mini-operator.ts";
import { swiftClock } from "../support/swift-clock.ts";

const MAPS = "v1/configmaps";

/** A minute of backoff is a few seconds here. */
async function setup(options: Partial<MiniOptions> = {}) {
  const kube = await FakeKube.start();
  const clock = swiftClock(20);
  const operator = new MiniOperator({ credentials: kube.credentials, clock, namespace: "ns", ...options });
  onTestFinished(async () => {
    await operator.close();
    await kube.close();
  });
  const children = () => kube.store.list(MAPS).filter(({ metadata }) => metadata.labels?.role === "child");
  const settled = (...names: string[]) =>
    eventually(`children ${names}`, () => {
      const there = children().map(({ metadata }) => metadata.name);
      return there.join() === names.join();
    });
  return { kube, operator, children, settled };
}

/** How often each object was made and removed: what an undisturbed run does once must be done once. */
function counts(kube: FakeKube): Record<string, { made: number; removed: number }> {
  const result: Record<string, { made: number; removed: number }> = {};
  for (const { before, after } of kube.store.changes) {
    const { name } = (after ?? before)?.metadata ?? { name: "" };
    result[name] ??= { made: 0, removed: 0 };
    if (!before) result[name].made++;
    if (!after) result[name].removed++;
  }
  return result;
}

const isWrite: Fault["when"] = ({ method }) => method !== "GET";

/** The same random numbers in every run. */
function dice(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    return state / 2 ** 31;
  };
}

const storms: { name: string; what: Fault["what"] }[] = [
  { name: "conflicts", what: { status: 409, reason: "Conflict" } },
  { name: "names that seem taken", what: { status: 409, reason: "AlreadyExists" } },
  { name: "a server that asks for patience", what: { status: 429, headers: { "retry-after": "2" } } },
  { name: "writes that are applied although the answer is 504", what: { statusAfter: 504 } },
  { name: "writes that are applied before the connection breaks", what: "reset after" },
  { name: "connections that break before anything is done", what: "reset" },
  { name: "errors of the server's own", what: { status: 500 } },
];
test.each(storms)(
  "half of all writes meet $name: the end and the counts are those of a quiet day",
  async ({ what }) => {
    const { kube, operator, settled } = await setup();
    const roll = dice(7);
    kube.fail({ when: (call) => isWrite?.(call) === true && roll() < 0.5, what });
    kube.store.create(MAPS, miniPool("ns", "a", 6));
    operator.start();
    await settled("a-0", "a-1", "a-2", "a-3", "a-4", "a-5");
    kube.store.merge(MAPS, "ns/a", { data: { replicas: "2" } });
    await settled("a-0", "a-1");
    kube.store.delete(MAPS, "ns/a");
    await settled();
    const made = counts(kube);
    expect(Object.keys(made).length).toBe(7);
    for (const { made: times, removed } of Object.values(made)) expect([times, removed]).toEqual([1, 1]);
  },
);

test("a cache that is held back makes nothing twice, even where names cannot tell", async () => {
  const { kube, operator, children } = await setup({ randomNames: true });
  operator.start();
  await eventually("two watches", () => kube.watching.size === 2);
  const childWatch = [...kube.watching].find(({ call }) => call.query.get("labelSelector") === "role=child");
  childWatch?.stall();
  kube.store.create(MAPS, miniPool("ns", "a", 3));
  await eventually("three children", () => children().length === 3);
  // The pool changes while the cache still shows no child at all.
  for (let i = 0; i < 5; i++) {
    const seen = operator.pools.version;
    kube.store.merge(MAPS, "ns/a", { data: { note: String(i) } });
    await eventually("the pool's change", () => operator.pools.version !== seen);
  }
  expect(operator.children.size).toBe(0);
  expect(children().length).toBe(3);
  // After 40 s of silence a second watch shows what the first withheld.
  await eventually("the cache shows them", () => operator.children.size === 3);
  kube.store.merge(MAPS, "ns/a", { data: { replicas: "4" } });
  await eventually("four children", () => children().length === 4);
  expect(Object.values(counts(kube)).every(({ made, removed }) => made === 1 && removed === 0)).toBe(true);
});

test("a pool that was deleted and made again while nobody watched gets children of its own, and loses only the old ones", async () => {
  const { kube, operator, children, settled } = await setup();
  kube.store.create(MAPS, miniPool("ns", "a", 2));
  operator.start();
  await settled("a-0", "a-1");
  const old = children().map(({ metadata }) => metadata.uid);
  for (const stream of kube.watching) stream.stall();
  kube.store.delete(MAPS, "ns/a");
  const second = kube.store.create(MAPS, miniPool("ns", "a", 2));
  kube.compact();
  const ownedBySecond = (child: Stored) => child.metadata.ownerReferences?.[0]?.uid === second.metadata.uid;
  await eventually("new children", () => children().length === 2 && children().every(ownedBySecond));
  expect(children().some(({ metadata }) => old.includes(metadata.uid))).toBe(false);
});

test("an unchanged world means no write at all, whatever the watches go through", async () => {
  const { kube, operator, settled } = await setup();
  kube.store.create(MAPS, miniPool("ns", "a", 3));
  operator.start();
  await settled("a-0", "a-1", "a-2");
  await eventually("the cache shows them", () => operator.children.size === 3);
  const writes = kube.writes.length;
  for (let i = 0; i < 5; i++) {
    const seen = kube.seen.length;
    kube.compact();
    for (const stream of kube.watching) stream.reset();
    await eventually("two new watches", () => kube.watching.size === 2 && kube.seen.length > seen + 1);
    operator.children.relist();
  }
  await eventually("a list", () => operator.children.synced);
  expect(kube.writes.length).toBe(writes);
});

test("a leader that is stopped and wakes after another took over changes nothing more, and ends", async () => {
  const kube = await FakeKube.start();
  onTestFinished(() => kube.close());
  kube.store.create(MAPS, miniPool("ns", "counter", 0));
  const script = fileURLToPath(new URL("../support/leader-child.ts", import.meta.url));
  const spawnLeader = (identity: string) => {
    const child = spawn(process.execPath, [script, kube.url, identity], { stdio: ["ignore", "inherit", "inherit"] });
    onTestFinished(() => void child.kill("SIGKILL"));
    return child;
  };
  const changesBy = (identity: string) =>
    kube.store.changes.filter(({ after }) => (after?.data as Record<string, string> | undefined)?.writer === identity);

  const first = spawnLeader("first");
  await eventually("the first leads and writes", () => changesBy("first").length > 3);
  const second = spawnLeader("second");
  first.kill("SIGSTOP");
  await eventually("the second leads and writes", () => changesBy("second").length > 3);
  const ended = once(first, "exit");
  first.kill("SIGCONT");
  const [code] = await ended;
  expect(code).toBe(3);
  const takeover = changesBy("second")[0]?.version ?? 0;
  expect(changesBy("first").filter(({ version }) => version > takeover)).toEqual([]);
  await eventually("the second goes on", () => changesBy("second").length > 6);
  second.kill("SIGTERM");
  await once(second, "exit");
  // Given up, not left to run out.
  const lease = kube.store.get("coordination.k8s.io/v1/leases", "ns/mini");
  expect((lease.spec as { holderIdentity: string }).holderIdentity).toBe("");
});
