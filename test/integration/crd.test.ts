import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { dump, load } from "js-yaml";
import { beforeAll, describe, expect, test } from "vitest";
import { brokenRules } from "../../src/api/cel.ts";
import { applyDefaults } from "../../src/api/defaults.ts";
import { LLMPool } from "../../src/api/llmpool.ts";
import { joinPath } from "../../src/api/problem.ts";
import { structural } from "../../src/api/structural.ts";
import { validatePool } from "../../src/api/validate.ts";
import { BROKEN_RULES, VALID_SPECS } from "../fixtures/broken-rules.ts";
import { LIKELY } from "../fixtures/likely-values.ts";
import { buildValidator, hasGo, judge, type Verdict } from "../support/crd-validator.ts";
import { fromSchema, spoil } from "../support/from-schema.ts";
import { manifest } from "../support/pool.ts";
import { tempDir } from "../support/temp-dir.ts";

const CRD = join(import.meta.dirname, "../../crds/llmpools.llmpool.dev.yaml");
const SEED = 20_261_123;

describe.skipIf(!hasGo)("the CRD in Kubernetes' own validator (needs go on PATH)", () => {
  let program: string;
  const ask = async (objects: readonly unknown[]): Promise<Verdict[]> => (await judge(program, CRD, objects)).objects;

  beforeAll(async () => {
    program = await buildValidator();
  }, 1_800_000);

  test("is accepted: structural, with types and costs of its rules", async () => {
    expect((await judge(program, CRD, [])).crd).toEqual([]);
  });

  test("would not be accepted with a rule that names a field that is not there", async () => {
    const broken = join(await tempDir(), "crd.yaml");
    const text = await readFile(CRD, "utf8");
    await writeFile(broken, text.replace("!has(self.scaling)", "!has(self.scalings)"));
    expect((await judge(program, broken, [])).crd).toMatchObject([
      { detail: expect.stringContaining("undefined field 'scalings'") },
    ]);
  });

  test("refuses every broken rule with the very message that it has here", async () => {
    const verdicts = await ask(BROKEN_RULES.map((row) => row.manifest));
    for (const [i, { path, message }] of BROKEN_RULES.entries()) {
      // A list-map refuses a name that is used twice by itself, besides.
      const problems = verdicts[i]?.problems.filter(
        (p) => p.type !== "FieldValueDuplicate" && p.field !== "metadata.name",
      );
      expect(problems).toEqual([{ type: "FieldValueInvalid", field: path || "<nil>", detail: message }]);
    }
  });

  test("accepts what is valid, with the same defaults", async () => {
    const manifests = VALID_SPECS.map((spec) => manifest(spec));
    for (const [i, { unknown, problems, object }] of (await ask(manifests)).entries()) {
      const mine = validatePool(manifests[i]);
      expect({ unknown, problems, spec: object.spec }).toEqual({
        unknown: [],
        problems: [],
        spec: mine.ok && mine.pool.spec,
      });
    }
  });

  test("agrees with validatePool on any object of its shape: accepted or not, defaults, messages of rules", async () => {
    const specs = fc.sample(anySpec, { numRuns: 1500, seed: SEED });
    const counts = await compare(specs);
    // Both sides of the rules were met.
    expect(counts.accepted).toBeGreaterThan(100);
    expect(counts.refused).toBeGreaterThan(100);
  });

  test("agrees with validatePool on objects with something wrong in them", async () => {
    const counts = await compare(fc.sample(anySpec.chain(spoil), { numRuns: 1500, seed: SEED }));
    expect(counts.accepted).toBeGreaterThan(20);
    expect(counts.refused).toBeGreaterThan(500);
  });

  const schema = structural(LLMPool);
  const spec = schema.properties?.spec ?? {};
  const anySpec = fromSchema(spec, LIKELY, ["scaling", "cache"]);

  async function compare(specs: unknown[]): Promise<{ accepted: number; refused: number }> {
    const manifests = specs.map((one) => manifest(one));
    const verdicts = await ask(manifests);
    const counts = { accepted: 0, refused: 0 };
    for (const [i, theirs] of verdicts.entries()) {
      const mine = validatePool(manifests[i]);
      const shown = dump(specs[i]).slice(0, 2000);
      const accepted = theirs.unknown.length === 0 && theirs.problems.length === 0;
      expect({ shown, accepted: mine.ok, problems: mine.ok || theirs }).toEqual({
        shown,
        accepted,
        problems: mine.ok || theirs,
      });
      if (mine.ok) expect(mine.pool.spec).toEqual(theirs.object.spec);
      else if (!theirs.problems.some((p) => p.detail.startsWith("some validation rules were not checked"))) {
        const texts = new Set(BROKEN_RULES.map((row) => row.message));
        const rulesOf = (all: string[]) => all.filter((line) => texts.has(line.replace(/^.*?\|/, ""))).sort();
        const filled = structuredClone(manifests[i]);
        applyDefaults(filled, schema);
        const broken = brokenRules(filled, schema);
        const own = rulesOf(broken.map(({ path, rule }) => `${joinPath(path)}${rule.fieldPath ?? ""}|${rule.message}`));
        expect({ shown, rules: own }).toEqual({
          shown,
          rules: rulesOf(theirs.problems.map((p) => `${p.field}|${p.detail}`)),
        });
      }
      counts[mine.ok ? "accepted" : "refused"]++;
    }
    return counts;
  }
});

test("the CRD file holds the schema", async () => {
  const crd = load(await readFile(CRD, "utf8")) as {
    spec: { versions: { schema: { openAPIV3Schema: { properties: { spec: unknown } } } }[] };
  };
  expect(crd.spec.versions[0]?.schema.openAPIV3Schema.properties.spec).toEqual(structural(LLMPool).properties?.spec);
});
