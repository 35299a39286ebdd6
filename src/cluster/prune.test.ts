import { expect, test } from "vitest";
import { manifest } from "../../test/support/pool.ts";
import { LLMPoolSpec } from "../api/llmpool.ts";
import { structural } from "../api/structural.ts";
import { prune } from "./prune.ts";

const SPEC = structural(LLMPoolSpec);

test("what a schema does not know is dropped at any depth, and all else stays", () => {
  const { spec } = manifest({
    roles: [{ name: "planner", budget: { maxTokens: 10 } }],
    resources: { limits: { memory: "1Gi", "example.com/device": 1 } },
    podTemplate: { spec: { anything: { goes: [1] } } },
  });
  const known = prune(spec, SPEC) as Record<string, unknown>;
  const { roles, ...rest } = known as unknown as { roles: object[]; resources: object };
  const later = {
    ...rest,
    roles: roles.map((role) => ({ ...role, later: 1 })),
    later: { a: 1 },
    router: { later: [] },
  };
  expect(prune(later, SPEC)).toEqual({ ...known, router: {} });
  expect(known).toMatchObject({
    resources: { limits: { memory: "1Gi", "example.com/device": 1 } },
    podTemplate: { spec: { anything: { goes: [1] } } },
    roles: [{ name: "planner" }],
  });
});
