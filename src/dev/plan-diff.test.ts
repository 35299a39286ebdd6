import { expect, test } from "vitest";
import { loadPool } from "../api/load.ts";
import { planPool } from "../core/plan/plan.ts";
import { describeChange } from "./plan-diff.ts";

const plan = (spec: string) =>
  planPool(
    loadPool(`{apiVersion: llmpool.dev/v1alpha1, kind: LLMPool, metadata: {name: p}, spec: ${spec}}`, { source: "t" })
      .pool,
  );

const rows: { name: string; before: string; after: string; want: string[] }[] = [
  { name: "nothing", before: "{backend: stub}", after: "{backend: stub, instances: 5}", want: [] },
  {
    name: "one more instance moves no default role that it need not",
    before: "{backend: stub, instances: 2, roles: [{name: a, instance: 0}]}",
    after: "{backend: stub, instances: 3, roles: [{name: a, instance: 0}]}",
    want: ["variant default: 2 -> 3 instances"],
  },
  {
    name: "a setting of the process",
    before: "{backend: stub}",
    after: "{backend: stub, stub: {replyTokens: 32}, contextTokens: 8192}",
    want: [
      "variant default: contextTokens 4096 -> 8192, stub.replyTokens 16 -> 32 (its instances are replaced one by one)",
    ],
  },
  {
    name: "a setting that no process is started with",
    before: "{backend: stub, drainSeconds: 10}",
    after: "{backend: stub, drainSeconds: 20}",
    want: ["variant default: drainSeconds 10 -> 20", "router: drainSeconds 10 -> 20"],
  },
  {
    name: "a model, of which nothing empty is told",
    before: "{backend: stub}",
    after: "{backend: llama-cpp, model: {uri: 'file:///m.gguf'}}",
    want: [
      "variant default: backend stub -> llama-cpp, model.uri none -> file:///m.gguf (its instances are replaced one by one)",
    ],
  },
  {
    name: "roles",
    before: "{backend: stub, roles: [{name: a, instance: 0}, {name: b, instance: 1}]}",
    after: "{backend: stub, roles: [{name: a, instance: 2, systemPrompt: Hi}, {name: c, instance: 1}]}",
    want: [
      "role b: removed",
      "role a: instance 0 -> instance 2, another system prompt",
      "role c: added, on instance 1",
    ],
  },
  {
    name: "variants",
    before: "{backend: stub, roles: [{name: a}]}",
    after: "{backend: stub, roles: [{name: a}], variants: [{name: code, instances: 2}]}",
    want: ["variant code: added, 2 instances of stub"],
  },
  {
    name: "a limit of the router",
    before: "{backend: stub}",
    after: "{backend: stub, budgets: {episodeTokens: 100}}",
    want: ["router: budgets.episodeTokens 0 -> 100"],
  },
];

test.each(rows)("$name", ({ before, after, want }) => {
  expect(describeChange(plan(before), plan(after))).toEqual(want);
});
