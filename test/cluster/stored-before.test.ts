import { readFile } from "node:fs/promises";
import { load } from "js-yaml";
import { expect, onTestFinished } from "vitest";
import { LLMPOOLS } from "../../operator/kinds.ts";
import type { Schema } from "../../src/api/structural.ts";
import { ApiError } from "../../src/kube/errors.ts";
import { adminClient } from "../support/admin.ts";
import { clusterForTests } from "../support/cluster.ts";
import { conditionOf } from "../support/conditions.ts";
import { eventually } from "../support/eventually.ts";
import { operate, type Pool, pools, stub, until } from "../support/pools.ts";
import { CRD } from "../support/scaled.ts";

// What was stored when the schema was another one: it took fields, values and combinations that are refused today, and filled nothing in.
const cluster = await clusterForTests();
cluster.installCrd();
const { podUids } = pools(cluster);

const RESTRICTIONS: readonly string[] = [
  ...["x-kubernetes-validations", "default", "enum", "pattern", "minimum", "maximum"],
  ...["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"],
];

/** A schema that takes whatever this one takes and much more, and has no defaults. */
function lax(schema: Schema): Schema {
  const left = Object.entries(schema).filter(([key]) => !RESTRICTIONS.includes(key));
  const { properties, items, additionalProperties, ...rest } = Object.fromEntries(left) as Schema;
  const each = (map: Record<string, Schema>) =>
    Object.fromEntries(Object.entries(map).map(([name, one]) => [name, lax(one)]));
  return {
    ...rest,
    ...(properties && { properties: each(properties), "x-kubernetes-preserve-unknown-fields": true }),
    ...(items && { items: lax(items) }),
    ...(additionalProperties && { additionalProperties: lax(additionalProperties) }),
  };
}

type Kind = { spec: { versions: { schema: { openAPIV3Schema: { properties: { spec: Schema } } } }[] } };

/** Pools that run, what they were changed to while the schema allowed it, and what is wrong with them today. */
const CHANGES: Record<string, { spec: object; wrong?: RegExp }> = {
  same: { spec: {} },
  "old-field": { spec: { oldKnob: 3, router: { oldSwitch: { deep: true } } } },
  "old-rule": {
    spec: { roles: [{ name: "a", instance: 7 }] },
    wrong: /spec\.roles\[0\]\.instance: role a: instance 7 is not below/,
  },
  "old-bound": { spec: { contextTokens: -5 }, wrong: /spec\.contextTokens: / },
  "old-choice": { spec: { backend: "gpt-sim" }, wrong: /spec\.backend: / },
};

cluster.ownTest(
  "pools that were stored under a former schema are read, told with the field of what is wrong with them, and no pod of them restarts",
  async () => {
    const namespace = await cluster.namespace();
    await cluster.addFakeNodes({ count: 1 });
    const client = adminClient(cluster);
    const kind = load(await readFile(CRD, "utf8")) as Kind;
    for (const { schema } of kind.spec.versions) {
      const { openAPIV3Schema: top } = schema;
      const { "x-kubernetes-validations": _, ...rest } = top as Schema;
      schema.openAPIV3Schema = { ...rest, properties: { ...top.properties, spec: lax(top.properties.spec) } } as never;
    }
    onTestFinished(() => cluster.applyCrd());
    await cluster.apply([kind]);
    const place = (name: string) => ({ namespace, name });
    const takes = async (spec: object) => {
      const query = { dryRun: "All" };
      const body = { ...stub(spec), metadata: { namespace, name: "asked" } };
      const path = `/apis/${LLMPOOLS.apiVersion}/namespaces/${namespace}/${LLMPOOLS.plural}`;
      const answer = await client.request("POST", path, { query, body }).catch((error: unknown) => error);
      return !(answer instanceof ApiError);
    };
    const bad = CHANGES["old-rule"]?.spec ?? {};
    await eventually("the former schema is served", () => takes(bad));

    const stop = await operate(cluster, namespace);
    const names = Object.keys(CHANGES);
    for (const name of names) await client.create<Pool>({ ...stub(), metadata: place(name) } as Pool);
    const poolOf = (name: string) => client.get<Pool & { spec: object }>(LLMPOOLS, place(name));
    await until("all are Ready", async () => {
      for (const name of names) expect(conditionOf(await poolOf(name), "Ready")?.status, name).toBe("True");
    });
    expect((await poolOf("same")).spec).not.toHaveProperty("drainSeconds", 180);
    expect((await poolOf("same")).spec).not.toHaveProperty("contextTokens");
    const before = await podUids(namespace, "llmpool.dev/pool");
    expect(before.size).toBe(names.length * 3);
    await stop();
    for (const [name, { spec }] of Object.entries(CHANGES)) await client.merge(LLMPOOLS, place(name), { spec });
    expect((await poolOf("old-field")).spec).toMatchObject({ oldKnob: 3 });

    await cluster.applyCrd();
    await eventually("today's schema is served", async () => !(await takes(bad)));
    await operate(cluster, namespace, { version: "9.9.9" });
    await until("each is judged by what it is today", async () => {
      for (const [name, { wrong }] of Object.entries(CHANGES)) {
        const pool = await poolOf(name);
        expect(pool.status?.observedGeneration, name).toBe(pool.metadata.generation);
        const ready = conditionOf(pool, "Ready");
        expect([ready?.status, ready?.reason], `${name}: ${ready?.message}`).toEqual(
          wrong ? ["False", "Invalid"] : ["True", "Ready"],
        );
        if (wrong) expect(ready?.message, name).toMatch(wrong);
      }
    });
    expect(await podUids(namespace, "llmpool.dev/pool")).toEqual(before);

    // Edited to what it was, each is what it was.
    const { spec } = stub();
    const removed = { roles: null, contextTokens: null };
    for (const name of names) await client.merge(LLMPOOLS, place(name), { spec: { ...removed, ...spec } });
    await until("all are Ready again", async () => {
      for (const name of names) {
        const pool = await poolOf(name);
        expect(pool.status?.observedGeneration, name).toBe(pool.metadata.generation);
        expect(conditionOf(pool, "Ready")?.status, name).toBe("True");
        expect(conditionOf(pool, "Progressing")?.status, name).toBe("False");
      }
    });
    expect(await podUids(namespace, "llmpool.dev/pool")).toEqual(before);
  },
  200_000,
);
