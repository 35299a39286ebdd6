import type { V1StatefulSet } from "@kubernetes/client-node";
import { expect, test } from "vitest";
import { planPool } from "../src/core/plan/plan.ts";
import type { ObjectOf } from "../src/kube/object.ts";
import { pool as makePool } from "../test/support/pool.ts";
import { hold } from "./hold.ts";
import { loadsOf } from "./render/model-load.ts";
import { renderPool } from "./render/render.ts";
import { defaultImages } from "./render/settings.ts";
import { variantsOf } from "./render/variant.ts";

type Set = ObjectOf<V1StatefulSet>;

const model = (uri: string) => ({ uri, cache: { storage: "1Gi" } });

/** What is written and kept of a pool whose model is not loaded, while `before` of it runs. */
function held(spec: object, before?: object) {
  const render = (of: object) => {
    const pool = makePool({ backend: "hf-cuda", instances: 2, ...of });
    const plan = planPool(pool);
    const variants = variantsOf(pool, plan);
    const images = defaultImages("1.0.0");
    return { variants, objects: renderPool(pool, plan, { images, operatorNamespace: "o", podMonitors: false }) };
  };
  const { variants, objects } = render(spec);
  const stored = before && render(before).objects.find(({ kind }) => kind === "StatefulSet");
  const loads = loadsOf(variants).map((load) => ({ load, facts: undefined, job: undefined, pods: [] }));
  const observed = variants.map((rendered) => ({ rendered, set: stored as Set | undefined, pods: [], load: loads[0] }));
  const { wanted, kept } = hold(objects, "apex", {
    variants: observed,
    surplus: [],
    loads,
    router: { deployment: undefined, pods: [] },
  });
  return { set: wanted.find(({ kind }) => kind === "StatefulSet") as Set | undefined, stored, wanted, kept: [...kept] };
}

test("pods of a model that is being loaded are not made", () => {
  const { wanted, kept } = held({ model: model("hf://org/a") });
  expect(wanted.map(({ kind }) => kind)).not.toContain("StatefulSet");
  expect(wanted.map(({ kind }) => kind)).toContain("Job");
  expect(kept).toEqual(["StatefulSet apex"]);
});

test("what runs with another model stays as it is", () => {
  const { set, kept } = held({ model: model("hf://org/b"), contextTokens: 512 }, { model: model("hf://org/a") });
  expect([set, kept]).toEqual([undefined, ["StatefulSet apex"]]);
});

test("but for the number of its pods, which follows the spec", () => {
  const { set, stored } = held({ model: model("hf://org/b"), instances: 5 }, { model: model("hf://org/a") });
  expect(set).toEqual({ ...stored, spec: { ...(stored as Set).spec, replicas: 5 } });
});

test("of Packed pods the number waits too: what runs in them is in the ConfigMap that is kept", () => {
  const gpu = { mode: "Packed", instancesPerPod: 2 };
  const before = { model: model("hf://org/a"), gpu };
  const { set, kept, wanted } = held({ model: model("hf://org/b"), gpu, instances: 4 }, before);
  expect([set, kept]).toEqual([undefined, ["ConfigMap apex", "StatefulSet apex"]]);
  expect(wanted.filter(({ kind }) => kind === "ConfigMap")).toEqual([]);
});
