import { expect, test } from "vitest";
import type { ModelFacts } from "../src/api/model-facts.ts";
import { behind } from "./behind.ts";
import type { Observed } from "./gather.ts";
import type { Pod } from "./kinds.ts";

const pod = (name: string, status: Pod["status"], deletionTimestamp?: string): Pod => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name, ...(deletionTimestamp !== undefined && { deletionTimestamp }) },
  ...(status && { status }),
});

const FACTS = { path: "hf/x" } as ModelFacts;
const job = { apiVersion: "batch/v1", kind: "Job", metadata: { name: "apex-load-1" } };

/** A pool of which only this is there. */
const names = ({ routers = [], load = {} }: { routers?: Pod[]; load?: Partial<Observed["loads"][number]> }) => {
  const loads = [{ job, facts: undefined, pods: [], ...load }];
  const observed = { variants: [], loads, surplus: [], router: { deployment: undefined, pods: routers } };
  return behind(observed as unknown as Observed).map(({ kind, name }) => `${kind}/${name}`);
};

test("a pod that is to start and says nothing is asked about, and so is a Job without one", () => {
  expect(names({ routers: [pod("apex-r", { phase: "Pending" })] })).toEqual(["Job/apex-load-1", "Pod/apex-r"]);
  expect(names({ load: { pods: [pod("l", { phase: "Pending" })] } })).toEqual(["Pod/l"]);
});

test("of what has ended, or is to end, nothing is asked", () => {
  const load = { pods: [pod("l", { phase: "Succeeded" })] };
  const evicted = { phase: "Failed", reason: "Evicted", message: "The node was low on resource: memory" };
  expect(names({ load, routers: [pod("apex-r", evicted)] })).toEqual([]);
  expect(names({ load, routers: [pod("apex-r", { phase: "Pending" }, "2026-01-01T00:00:00Z")] })).toEqual([]);
});

test("a model that is there needs no loader", () => {
  expect(names({ load: { facts: FACTS } })).toEqual([]);
  expect(names({ load: { facts: FACTS, pods: [pod("l", { phase: "Pending" })] } })).toEqual([]);
});
