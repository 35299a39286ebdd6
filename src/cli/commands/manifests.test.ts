import { readdirSync, readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Command } from "commander";
import { load, loadAll } from "js-yaml";
import { describe, expect, test } from "vitest";
import { tempDir } from "../../../test/support/temp-dir.ts";
import { loadPool } from "../../api/load.ts";
import { planPool } from "../../core/plan/plan.ts";
import { define } from "../../dev/definition.ts";
import { makeAuthenticate } from "../../router/auth.ts";
import { registerRender } from "./render.ts";
import { registerValidate } from "./validate.ts";

const EXAMPLES = join(import.meta.dirname, "../../../examples");
const examples = readdirSync(EXAMPLES).filter((file) => file.endsWith(".yaml"));

/** Runs one command line as the main would, and returns what it said. */
async function run(args: string[], { cwd = EXAMPLES, env = {} }: { cwd?: string; env?: Record<string, string> } = {}) {
  const said = { out: "", err: "", code: 0 };
  const program = new Command().exitOverride().configureOutput({ writeErr: (text) => (said.err += text) });
  const io = {
    stdout: (text: string) => (said.out += text),
    stderr: (text: string) => (said.err += text),
    env,
    cwd,
    signal: new AbortController().signal,
    setExitCode: (code: number) => {
      said.code = code;
    },
  };
  registerRender(program, io);
  registerValidate(program, io);
  await program.parseAsync(args, { from: "user" });
  return said;
}

async function file(text: string): Promise<string> {
  const cwd = await tempDir();
  await writeFile(join(cwd, "pool.yaml"), text);
  return cwd;
}

const pool = (name: string, spec: string) =>
  `apiVersion: llmpool.dev/v1alpha1\nkind: LLMPool\nmetadata: { name: ${name} }\nspec: ${spec}\n`;

describe("every example", () => {
  test("is there", () => expect(examples.length).toBeGreaterThanOrEqual(4));

  test.each(examples)("%s is valid", async (example) => {
    expect(await run(["validate", "-f", example])).toMatchObject({ err: "", code: 0 });
  });

  test.each(examples)("%s renders to the plan that dev executes", async (example) => {
    const { out, code } = await run(["render", "-f", example]);
    const text = readFileSync(join(EXAMPLES, example), "utf8");
    expect(code).toBe(0);
    expect(load(out)).toEqual(planPool(loadPool(text, { source: example }).pool));
  });
});

test("the keys that examples/budgets.yaml names are those of its Secret", () => {
  const { plan, secrets } = define(readFileSync(join(EXAMPLES, "budgets.yaml"), "utf8"), {
    source: "budgets.yaml",
    env: {},
    cwd: EXAMPLES,
    secretDirs: new Map(),
    volumes: new Map(),
  });
  const authenticate = makeAuthenticate(plan.router.auth, secrets);
  expect(authenticate("Bearer alice-key").tenant).toBe("alice");
  expect(authenticate("Bearer bob-key")).toMatchObject({
    tenant: "bob",
    roles: ["planner", "coder"],
    budget: { tokens: 5000 },
  });
  expect(() => authenticate("Bearer x")).toThrow();
});

describe("validate", () => {
  test("prints every problem of every pool and file, and fails", async () => {
    const cwd = await file(
      `${pool("a", "{ backend: stub, intances: 2, contextTokens: 1 }")}---\n${pool("b", "{ backend: stub }")}`,
    );
    const { out, err, code } = await run(["validate", "-f", "pool.yaml", "none.yaml"], { cwd });
    expect(out).toBe("pool.yaml: llmpool/b is valid\n");
    expect(err.split("\n").slice(0, 2)).toEqual([
      "pool.yaml: llmpool/a: spec.contextTokens: is 1: write at least 16",
      "pool.yaml: llmpool/a: spec.intances: is not a field: did you mean instances?",
    ]);
    expect(err.split("\n").slice(2)).toEqual(["none.yaml: there is no such file", ""]);
    const folder = await run(["validate", "-f", "."], { cwd });
    expect(folder.err).toBe(".: cannot be read: EISDIR: illegal operation on a directory\n");
    expect(await run(["render", "-f", "none.yaml"], { cwd })).toMatchObject({ err: "there is no file none.yaml\n" });
    expect(code).toBe(1);
  });

  test("prints findings for programs with -o", async () => {
    const cwd = await file(pool("a", "{ backend: llama-cpp }"));
    const { out, code } = await run(["validate", "-f", "pool.yaml", "-o", "json"], { cwd });
    expect(JSON.parse(out)).toMatchObject([
      { file: "pool.yaml", pool: "a", valid: false, problems: [{ path: "spec.model" }] },
    ]);
    expect(code).toBe(1);
  });

  test("tells the line of broken YAML", async () => {
    expect((await run(["validate", "-f", "pool.yaml"], { cwd: await file("a: [1\nb: 2") })).err).toContain(
      "pool.yaml: line 2, column 1:",
    );
  });

  test("does not count the environment", async () => {
    const cwd = await file(pool("a", "{ backend: llama-cpp }"));
    expect((await run(["validate", "-f", "pool.yaml"], { cwd, env: { APEX_LLM_STUB: "1" } })).code).toBe(1);
  });
});

describe("render", () => {
  test("counts the environment, as dev does, and says what it leaves out", async () => {
    const env = { APEX_LLM_INSTANCES: "2", APEX_LLM_STUB: "1", APEX_LLM_MODEL_ID: "org/repo" };
    const { out, err } = await run(["render", "-f", "quickstart.yaml", "-o", "json"], { env });
    expect(JSON.parse(out).variants[0].instances.map((i: { id: string }) => i.id)).toEqual(["0", "1"]);
    expect(err).toBe("APEX_LLM_MODEL_ID is left out: backend stub does not load it\n");
  });

  test("--set wins over the environment and the file, and its problems name it", async () => {
    const stub = ["-f", "stub.yaml", "--set"];
    const env = { APEX_LLM_INSTANCES: "2" };
    const { out } = await run(["render", ...stub, "instances=5", "--set", "instances=1", "-o", "json"], { env });
    expect(JSON.parse(out).variants[0].instances).toHaveLength(1);
    expect((await run(["render", ...stub, "instances=1", "--objects"])).out).toMatch(/^ {2}replicas: 1$/m);
    for (const command of ["render", "validate"]) {
      const { err, code } = await run([command, ...stub, "instances=few", "--set", "roles=[{nam: a}]"]);
      expect(code).toBe(1);
      expect(err).toMatch(/spec\.instances: .* \(set by --set instances\)/);
      expect(err).toMatch(/spec\.roles\[0\].* \(set by --set roles\)/);
    }
  });

  test("asks which pool when there are several", async () => {
    const cwd = await file(`${pool("a", "{ backend: stub }")}---\n${pool("b", "{ backend: stub }")}`);
    const unclear = await run(["render", "-f", "pool.yaml"], { cwd });
    expect(unclear).toEqual({
      out: "",
      err: "pool.yaml: there are several pools: choose one by its name (it holds a, b)\n",
      code: 1,
    });
    expect((await run(["render", "-f", "pool.yaml", "--name", "b"], { cwd })).out).toMatch(/^pool: b$/m);
  });

  test("prints the objects of a cluster with --objects, whatever this machine's environment says", async () => {
    const env = { APEX_LLM_INSTANCES: "2" };
    const { out, err } = await run(["render", "-f", "stub.yaml", "--objects"], { env });
    const objects = loadAll(out) as { kind: string; metadata: { name: string }; spec?: { replicas?: number } }[];
    const list = JSON.parse((await run(["render", "-f", "stub.yaml", "--objects", "-o", "json"])).out);
    expect(list.items).toEqual(objects);
    const { name } = objects.find(({ kind }) => kind === "Deployment")?.metadata ?? {};
    expect(objects.find(({ kind }) => kind === "StatefulSet")?.spec?.replicas).toBe(3);
    expect(err).toBe(`left out: Secret ${name}-token, which the operator makes once, at random\n`);
  });

  test.each([[["render"]], [["render", "-f", "stub.yaml", "-o", "xml"]], [["validate", "-f"]]])(
    "%o is wrong usage",
    async (args) => {
      await expect(run(args)).rejects.toMatchObject({ name: "CommanderError" });
    },
  );
});
