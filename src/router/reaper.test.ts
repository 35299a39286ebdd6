import { beforeEach, expect, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { FakeSource } from "../../test/support/fake-instance.ts";
import { poolPlan } from "../../test/support/pool.ts";
import { settle as turns } from "../../test/support/settle.ts";
import type { Usage } from "../api/backend.ts";
import type { Endpoint } from "../core/endpoint.ts";
import type { Reservation, StateStore } from "../core/store.ts";
import { silentLogger } from "../lib/logger.ts";
import { makeRouterMetrics } from "./metrics.ts";
import { Reaper } from "./reaper.ts";
import type { Upstreams } from "./upstream.ts";

type Record = Awaited<ReturnType<Upstreams["record"]>>;

let clock: FakeClock;
let abandoned: Reservation[];
/** What was settled, in tokens. */
let spent: Map<string, number>;
/** What each instance says; absent: it does not answer at all. */
let says: Map<string, Record>;

beforeEach(() => {
  clock = new FakeClock();
  abandoned = [];
  spent = new Map();
  says = new Map();
});

const left = (requestId: string, instance: string, ageMs: number, boot = "b"): Reservation => ({
  ...{ requestId, tenant: "", instance, tokens: 100, ageMs, boot },
});
const USAGE: Usage = { promptTokens: 7, completionTokens: 2, cachedTokens: 0 };

async function start(): Promise<Reaper> {
  const store: Pick<StateStore, "abandonedReservations" | "settle"> = {
    abandonedReservations: async () => abandoned.filter(({ requestId }) => !spent.has(requestId)),
    settle: async (id, usage) => void spent.set(id, usage ? usage.promptTokens + usage.completionTokens : 0),
  };
  const upstreams: Pick<Upstreams, "record"> = {
    record: ({ id }) => {
      const answer = says.get(id);
      return answer === undefined ? new Promise(() => {}) : Promise.resolve(answer);
    },
  };
  const endpoint = (id: string): Endpoint => ({
    ...{ uid: id, id, variant: "default", url: `http://${id}`, state: "Ready", restarts: 0 },
  });
  const reaper = new Reaper({
    ...{ clock, log: silentLogger, metrics: makeRouterMetrics(poolPlan({ instances: 2 })) },
    source: new FakeSource([endpoint("0"), endpoint("1")]),
    store: store as StateStore,
    upstreams: upstreams as Upstreams,
  });
  await reaper.start();
  await turns();
  return reaper;
}

test("only the process that a reservation was for can say that it never saw it, whatever the store's clock shows", async () => {
  clock.stepWall(-3_600_000);
  abandoned = [left("same", "0", 86_000, "b"), left("other", "0", 5_000, "a"), left("future", "0", -86_000, "a")];
  says.set("0", { unknownSinceMs: 10_000, boot: "b" });
  await start();
  expect([...spent]).toEqual([
    ["same", 0],
    ["other", 100],
    ["future", 100],
  ]);
});

test("what had no process yet was sent to none, and costs nothing, whoever answers", async () => {
  const { boot: _, ...unplaced } = left("waited", "0", 700_000);
  abandoned = [unplaced, left("for another", "1", 5_000, "a")];
  says.set("1", { unknownSinceMs: 10_000, boot: "b" });
  await start();
  expect([...spent]).toEqual([
    ["waited", 0],
    ["for another", 100],
  ]);
});

test("an age that a clock which was set back made proves nothing, also when it has grown again", async () => {
  abandoned = [left("a", "0", -500)];
  says.set("0", "running");
  await start();
  abandoned = [left("a", "0", 500)];
  says.set("0", { unknownSinceMs: 600_000, boot: "b" });
  clock.advance(1_000);
  await turns();
  expect(spent.get("a")).toBe(100);
});

test("without an age, the process it was for is believed as long as it has forgotten nothing", async () => {
  abandoned = [left("young", "0", -1), left("old", "1", -1, "c")];
  says.set("0", { unknownSinceMs: 599_000, boot: "b" });
  says.set("1", { unknownSinceMs: 600_000, boot: "c" });
  await start();
  expect([...spent]).toEqual([
    ["young", 0],
    ["old", 100],
  ]);
});

test("what this router sent itself is proved by the process it was sent to, however slowly that answers, and by one that is older", async () => {
  const reaper = await start();
  const ours = (requestId: string, boot: string, ageMs: number) =>
    reaper.prove({
      ...{ requestId, instance: "0", boot, isOurs: true, tokens: 100, since: clock.now() - ageMs },
      settle: async (usage) => void spent.set(requestId, usage ? 1 : 0),
    });
  says.set("0", { unknownSinceMs: 1_000, boot: "b" });
  await ours("the same", "b", 2_000);
  await ours("older", "another name of it", 500);
  await ours("another", "a", 2_000);
  expect([...spent.values()]).toEqual([0, 0, 1]);
});

test("what an instance has had time to forget costs all of it", async () => {
  abandoned = [left("a", "0", 600_001)];
  says.set("0", { unknownSinceMs: 86_400_000, boot: "b" });
  await start();
  expect(spent.get("a")).toBe(100);
});

test("what still runs is asked about again", async () => {
  abandoned = [left("a", "0", 1_000)];
  says.set("0", "running");
  await start();
  says.set("0", { usage: USAGE });
  expect(spent.size).toBe(0);
  clock.advance(1_000);
  await turns();
  expect(spent.get("a")).toBe(9);
});

test("an instance that does not answer holds up its own alone", async () => {
  abandoned = [left("a", "0", 1_000), left("b", "1", 1_000)];
  says.set("1", { usage: USAGE });
  await start();
  expect([...spent]).toEqual([["b", 9]]);
});
