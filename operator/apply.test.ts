import { isDeepStrictEqual } from "node:util";
import { expect, test } from "vitest";
import type { KubeObject } from "../src/kube/object.ts";
import { FakeClock } from "../test/support/fake-clock.ts";
import { type ApplyDeps, applyObjects } from "./apply.ts";
import { Contest } from "./contest.ts";
import { Settled } from "./settled.ts";

const OWNER = { key: "team/apex", uid: "u1" };

type Thing = KubeObject & { spec: Record<string, unknown> };

const thing = (spec: Thing["spec"]): Thing => ({
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: {
    name: "apex",
    namespace: "team",
    ownerReferences: [{ apiVersion: "v1", kind: "LLMPool", name: "apex", uid: OWNER.uid, controller: true }],
  },
  spec,
});

/** A server with one object, from which it drops what is false, and a cache that shows it at once. */
function setup() {
  const clock = new FakeClock();
  const server: { stored: Thing | undefined; applied: number; version: number } = {
    ...{ stored: undefined, applied: 0, version: 0 },
  };
  /** Stored anew only where something differs, as by the API server. */
  const store = ({ metadata, ...rest }: Thing): Thing => {
    const spec = Object.fromEntries(Object.entries(rest.spec).filter(([, value]) => value !== false));
    const resourceVersion = String(server.version);
    const same = { ...rest, metadata: { ...metadata, uid: "o1", resourceVersion }, spec };
    if (isDeepStrictEqual(same, server.stored)) return same;
    server.stored = { ...same, metadata: { ...same.metadata, resourceVersion: String(++server.version) } };
    return server.stored;
  };
  const touch = () => {
    const { stored } = server;
    if (stored)
      server.stored = { ...stored, metadata: { ...stored.metadata, resourceVersion: String(++server.version) } };
  };
  const deps = {
    client: {
      find: async () => undefined,
      apply: async (object: Thing) => {
        server.applied++;
        return store(object);
      },
    },
    caches: { of: () => ({ get: () => server.stored }), owned: () => [] },
    expectations: { wrote: () => {} },
    contest: new Contest(),
    settled: new Settled(),
    clock,
  } as unknown as ApplyDeps;
  const apply = async (wanted: Thing) => {
    const token = async () => ({ foreign: false });
    const { problems, written } = await applyObjects([wanted], OWNER, deps, AbortSignal.any([]), new Set(), token);
    return { written: written.size, problems: problems.map(({ reason }) => reason) };
  };
  return { clock, server, store, touch, apply };
}

const QUIET = { written: 0, problems: [] };

test("an apply that changes nothing is no write, and is not repeated before the object or the wish changes", async () => {
  const { clock, server, touch, apply } = setup();
  const wanted = thing({ hostNetwork: false });
  expect(await apply(wanted)).toEqual({ written: 1, problems: [] });
  for (let look = 0; look < 20; look++) {
    expect(await apply(wanted)).toEqual(QUIET);
    clock.advance(1_000);
  }
  expect(server.applied).toBe(2);
  // Its status has changed: whether anything is missing now has to be asked.
  touch();
  for (let look = 0; look < 20; look++) expect(await apply(wanted)).toEqual(QUIET);
  expect(server.applied).toBe(3);
  const other = thing({ hostNetwork: false, replicas: 2 });
  expect(await apply(other)).toEqual({ written: 1, problems: [] });
  for (let look = 0; look < 20; look++) expect(await apply(other)).toEqual(QUIET);
  expect(server.applied).toBe(5);
});

test("who undoes again and again what is written is told of from then on, without a pause", async () => {
  const { clock, server, store, apply } = setup();
  const wanted = thing({ replicas: 1 });
  const said: string[] = [];
  for (let look = 0; look < 60; look++) {
    said.push((await apply(wanted)).problems.join());
    // A look that finds its own write still there, and one that does not.
    said.push((await apply(wanted)).problems.join());
    store({ ...(server.stored as Thing), spec: { replicas: 2 } });
    clock.advance(look < 6 ? 100 : 4_500);
  }
  const first = said.indexOf("Contested");
  expect(first).toBeGreaterThan(0);
  expect(said.slice(first).filter((reason) => reason !== "Contested")).toEqual([]);
});
