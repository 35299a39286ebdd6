import type { V1ConfigMap } from "@kubernetes/client-node";
import { expect, test } from "vitest";
import { planPool } from "../src/core/plan/plan.ts";
import { pool as makePool } from "../test/support/pool.ts";
import { keepEntries } from "./keep-entries.ts";
import type { Pod } from "./kinds.ts";
import { renderPool } from "./render/render.ts";
import { defaultImages } from "./render/settings.ts";
import { variantsOf } from "./render/variant.ts";

const SETTINGS = { images: defaultImages("1"), operatorNamespace: "o", podMonitors: false };

/** A pool of three pods, two instances each, and its objects. */
function rendered(memory: string) {
  const gpu = { mode: "Packed", instancesPerPod: 2 };
  const pool = makePool({ backend: "stub", instances: 6, gpu, resources: { limits: { memory } } });
  const plan = planPool(pool);
  const [variant] = variantsOf(pool, plan);
  if (!variant) throw new Error("no variant");
  return { variant, objects: renderPool(pool, plan, SETTINGS) };
}

const dataIn = (objects: readonly object[]) =>
  (objects as V1ConfigMap[]).find(({ kind }) => kind === "ConfigMap")?.data ?? {};

const podOf = (ordinal: number, revision: string, leaves = false): Pod => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: {
    name: `apex-${ordinal}`,
    annotations: { "llmpool.dev/revision": revision },
    ...(leaves && { deletionTimestamp: "2026-01-01T00:00:00Z" }),
  },
});

test("a Packed pod keeps the entry that it was made for until it is replaced", () => {
  const [small, large] = [rendered("1Gi"), rendered("2Gi")];
  const [before, after] = [dataIn(small.objects), dataIn(large.objects)];
  expect(before["0.json"]).not.toBe(after["0.json"]);
  const [was, is] = [small.variant.podRevision, large.variant.podRevision];
  const entries = (pods: Pod[], due: Pod[] = [], stored = before) => {
    const kept = keepEntries(large.objects, "apex", [{ rendered: large.variant, pods }], due, () => stored);
    expect(kept.filter(({ kind }) => kind !== "ConfigMap")).toEqual(
      large.objects.filter(({ kind }) => kind !== "ConfigMap"),
    );
    const data = dataIn(kept);
    expect(Object.keys(data)).toEqual(Object.keys(after));
    return Object.keys(data).map((name) => (data[name] === after[name] ? "new" : "old"));
  };
  const old = [0, 1, 2].map((ordinal) => podOf(ordinal, was));
  expect(entries(old)).toEqual(["old", "old", "old"]);
  // In the look that deletes it, before it goes: its successor finds its own.
  expect(entries(old, old.slice(2))).toEqual(["old", "old", "new"]);
  // Gone, on its way out, or made anew.
  expect(entries(old.slice(0, 2))).toEqual(["old", "old", "new"]);
  expect(entries([podOf(0, was), podOf(1, was, true), podOf(2, is)])).toEqual(["old", "new", "new"]);
  // Somebody has deleted the ConfigMap.
  expect(entries(old, [], {})).toEqual(["new", "new", "new"]);
});
