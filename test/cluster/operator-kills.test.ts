import { isDeepStrictEqual } from "node:util";
import { expect } from "vitest";
import type { Lease } from "../../src/kube/lease.ts";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import type { Seen } from "../support/fake-kube.ts";
import { OperatedNamespace, type Outcome } from "../support/operated-namespace.ts";
import { worldOf } from "../support/world.ts";

const cluster = await clusterForTests();
cluster.installCrd();

/** Lives of pools that go on at the same time. */
const LANES = 4;
const HANG_MS = 900_000;

/** The life of a pool. Each phase begins where the one before it came to rest. */
const PHASES: readonly { name: string; act: (lane: OperatedNamespace) => Promise<void> }[] = [
  { name: "create", act: (lane) => lane.create() },
  { name: "scale up", act: (lane) => lane.edit({ instances: 3 }) },
  { name: "scale down", act: (lane) => lane.edit({ instances: 2 }) },
  { name: "roll-out", act: (lane) => lane.edit({ contextTokens: 512 }) },
  {
    name: "failed roll-out",
    act: (lane) => lane.edit({ podTemplate: { spec: { nodeSelector: { nowhere: "yes" } } } }),
  },
  { name: "revert", act: (lane) => lane.edit({ podTemplate: null }) },
  {
    name: "router",
    act: (lane) => lane.edit({ router: { podTemplate: { spec: { terminationGracePeriodSeconds: 5 } } } }),
  },
];

/** One write of a phase, and on which side of it the operator is killed. */
interface Point {
  write: string;
  /** Of that name in the phase, from 1. */
  nth: number;
  side: "before" | "after";
}

interface Reference extends Outcome {
  points: Point[];
}

cluster.ownTest(
  "killed before and after each write of a pool's life, the operator ends where an undisturbed one does, and makes nothing twice",
  async () => {
    const { real, world } = await worldOf(cluster, 2);
    const lanes = await Promise.all(Array.from({ length: LANES }, () => OperatedNamespace.make(cluster, real, world)));
    await Promise.all(lanes.map((lane) => lane.operate()));

    const [first] = lanes as [OperatedNamespace];
    const references = await undisturbed(first);
    const lives = Math.max(...references.map(({ points }) => points.length));
    const unreached: string[] = [];
    const failures: string[] = [];
    let next = 0;
    const live = async (lane: OperatedNamespace) => {
      for (let life = next++; life < lives; life = next++) {
        for (const [index, reference] of references.entries()) {
          const point = reference.points[life];
          if (!point) break;
          const what = `${PHASES[index]?.name}, killed ${point.side} ${point.write} (${point.nth})`;
          const before = lane.writes.length;
          try {
            if (!(await disturbed(lane, index, reference, point))) unreached.push(what);
          } catch (error) {
            failures.push([what, String(error), ...lane.writes.slice(before), lane.operator.said].join("\n"));
            break;
          }
        }
        await gone(lane);
      }
    };
    await Promise.all(lanes.map(live));
    expect(failures).toEqual([]);
    // How many statuses and Events are written on the way depends on what is seen at once.
    expect(unreached.filter((what) => !/status|event/.test(what))).toEqual([]);
    expect(lanes.flatMap(({ lies }) => lies)).toEqual([]);
  },
  HANG_MS,
);

const change = { instances: 3, contextTokens: 512 };

/** Writes of the Lease, and how a change of the pool comes upon each. */
const LEASE_WRITES: Record<
  string,
  { begin: (lane: OperatedNamespace) => Promise<unknown>; is: (call: Seen) => boolean }
> = {
  "the first acquisition": {
    begin: async (lane) => {
      await lane.killOperator();
      await lane.edit(change);
      lane.start();
    },
    is: ({ method }) => method === "POST",
  },
  "a take-over": {
    begin: async (lane) => {
      await lane.operator.kill();
      await lane.edit(change);
      lane.start();
    },
    // No renewal by the one before, which may still be on its way.
    is: ({ method, body }) => method === "PUT" && ((JSON.parse(body) as Lease).spec?.leaseTransitions ?? 0) > 0,
  },
  "a renewal": { begin: (lane) => lane.edit(change), is: ({ method }) => method === "PUT" },
  "giving it up": {
    begin: async (lane) => {
      await lane.edit(change);
      lane.operator.signal("SIGTERM");
    },
    is: ({ body }) => (JSON.parse(body) as Lease).spec?.holderIdentity === "",
  },
};
const SIDES = ["before", "after"] as const;

cluster.ownTest(
  "killed before and after each write of its Lease while a pool changes, the operator is followed by one that ends the change",
  async () => {
    const { real, world } = await worldOf(cluster, 2);
    const made = async () => {
      const lane = await OperatedNamespace.make(cluster, real, world);
      await lane.operate();
      await lane.create();
      await lane.untilRest();
      return lane;
    };
    const quiet = await made();
    await quiet.edit(change);
    await quiet.untilRest();
    await quiet.untilQuiet();
    const wanted = quiet.outcome();
    const points = Object.entries(LEASE_WRITES).flatMap(([name, write]) =>
      SIDES.map((side) => ({ ...write, side, what: `killed ${side} ${name}` })),
    );
    await Promise.all(
      points.map(async ({ begin, is, side, what }) => {
        const lane = await made();
        const killed = lane.killWhen((call) => call.path.includes("/leases") && is(call), side);
        await begin(lane);
        await killed;
        await lane.operator.whenExited();
        // Its Lease is left as it is: a dead holder's runs out by itself.
        await lane.operate();
        await lane.becomes(wanted);
        await lane.untilQuiet();
        expect(lane.outcome(), what).toEqual(wanted);
        expect(lane.lies, what).toEqual([]);
      }),
    );
  },
  200_000,
);

async function undisturbed(lane: OperatedNamespace): Promise<Reference[]> {
  const references: Reference[] = [];
  for (const { name, act } of PHASES) {
    const before = lane.writes.length;
    await act(lane);
    if (name === "failed roll-out") await eventually("it is stuck", () => isStuck(lane));
    else await lane.untilRest();
    await lane.untilQuiet();
    references.push({ ...lane.outcome(), points: pointsOf(lane.writes.slice(before)) });
  }
  await gone(lane);
  return references;
}

const isStuck = ({ pool }: OperatedNamespace) =>
  pool?.status?.conditions?.some(({ type }) => type === "Stalled") === true;

function pointsOf(writes: readonly string[]): Point[] {
  return writes.flatMap((write, index) => {
    const nth = writes.slice(0, index + 1).filter((other) => other === write).length;
    return [
      { write, nth, side: "before" },
      { write, nth, side: "after" },
    ] satisfies Point[];
  });
}

/** Resolves with whether the operator was killed at this point. */
async function disturbed(
  lane: OperatedNamespace,
  phase: number,
  reference: Reference,
  { write, nth, side }: Point,
): Promise<boolean> {
  const killed = lane.killAt(write, nth, side);
  await PHASES[phase]?.act(lane);
  await lane.becomes(reference);
  // A last Event may still be to come, and the end with it.
  if (!killed.done())
    await lane.untilQuiet().catch((error: unknown) => {
      if (!killed.done()) throw error;
    });
  const reached = killed.done();
  if (reached) {
    await killed.succeeded;
    await lane.becomes(reference);
    await lane.untilQuiet();
  }
  const { state, made, deleted } = lane.outcome();
  expect(state).toEqual(reference.state);
  expect(differences(made, reference.made)).toEqual({});
  expect(differences(deleted, reference.deleted)).toEqual({});
  expect(lane.operator.exitCode).toBeUndefined();
  return reached;
}

/** Only what is not the same, for whoever reads it. */
function differences(made: Record<string, number>, wanted: Record<string, number>): Record<string, string> {
  const names = [...new Set([...Object.keys(made), ...Object.keys(wanted)])].filter(
    (name) => made[name] !== wanted[name],
  );
  return Object.fromEntries(names.map((name) => [name, `${made[name] ?? 0} instead of ${wanted[name] ?? 0}`]));
}

async function gone(lane: OperatedNamespace): Promise<void> {
  await lane.delete();
  await eventually("nothing of the pool is left", () => isDeepStrictEqual(lane.outcome().state, {}));
}
