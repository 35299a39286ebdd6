import { expect, test } from "vitest";
import { pool as makePool } from "../test/support/pool.ts";
import { Checked } from "./checked.ts";

const stored = (spec: object, uid = "u") => {
  const { apiVersion, kind, spec: whole } = structuredClone(makePool({ backend: "stub", ...spec }));
  return { apiVersion, kind, metadata: { name: "apex", namespace: "team", uid }, spec: whole };
};

test("a pool is checked and planned once for each spec, and anew when it is another or was forgotten", () => {
  const checked = new Checked();
  const first = checked.of("a", stored({ instances: 2 }));
  expect(first).toMatchObject({ plan: { pool: "apex" } });
  expect(checked.of("a", stored({ instances: 2 }))).toBe(first);
  const edited = checked.of("a", stored({ instances: 3 }));
  expect("plan" in edited && edited.plan.variants[0]?.instances.length).toBe(3);
  const again = checked.of("a", stored({ instances: 3 }, "other"));
  expect(again).not.toBe(edited);
  checked.forget("a");
  expect(checked.of("a", stored({ instances: 3 }, "other"))).not.toBe(again);
});

test("every problem is in one line", () => {
  const pool = stored({});
  const broken = { ...pool, spec: { ...pool.spec, instances: -1, contextTokens: 1 } };
  const said = new Checked().of("a", broken);
  expect("problems" in said && said.problems).toMatch(/spec\.instances: .*; spec\.contextTokens: /);
});
