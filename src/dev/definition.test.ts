import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ManifestError } from "../api/problem.ts";
import { define } from "./definition.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "llmpool-dev-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const pool = (spec: string) => `{apiVersion: llmpool.dev/v1alpha1, kind: LLMPool, metadata: {name: p}, spec: ${spec}}`;
const read = (
  text: string,
  given: { secretDirs?: [string, string][]; volumes?: [string, string][]; env?: Record<string, string> } = {},
) =>
  define(text, {
    source: "pool.yaml",
    env: given.env ?? {},
    cwd: dir,
    secretDirs: new Map(given.secretDirs),
    volumes: new Map(given.volumes),
  });
const problemsOf = (run: () => unknown): string[] => {
  try {
    run();
  } catch (error) {
    if (error instanceof ManifestError) return error.problems.map(({ path, message }) => `${path}: ${message}`);
    throw error;
  }
  return [];
};

test("a pool that only a cluster can run is refused with every cure at once", () => {
  const spec = `{backend: llama-cpp, model: {uri: "pvc://models/m.gguf", secretRef: {name: hf, key: token}},
    router: {auth: {mode: ApiKey, secretName: keys}}, store: {redisSecretRef: {name: r, key: url}},
    variants: [{name: big, model: {uri: "pvc://big/m.gguf"}}]}`;
  expect(problemsOf(() => read(pool(spec)))).toEqual([
    "spec.model.uri: the claim models is not here: give --volume models=DIR",
    "spec.model.secretRef: there is no Secret hf here: put it into the file, or give --secret hf=DIR",
    "spec.variants[big].model.uri: the claim big is not here: give --volume big=DIR",
    "spec.router.auth.secretName: there is no Secret keys here: put it into the file, or give --secret keys=DIR",
    "spec.store.redisSecretRef: there is no Secret r here: put it into the file, or give --secret r=DIR",
  ]);
});

test("what only means something on a cluster is left out and said in one line", () => {
  const { notes } = read(
    pool("{backend: stub, gpu: {mode: Exclusive}, podTemplate: {}, variants: [{name: v, image: i}]}"),
  );
  expect(notes).toEqual(["left out on this machine: gpu, podTemplate, image"]);
});

test("secrets come from the file, and from folders as a cluster mounts them", () => {
  const secret = join(dir, "keys");
  mkdirSync(join(secret, "..data"), { recursive: true });
  writeFileSync(join(secret, "alice"), "{}");
  const text = `${pool("{backend: stub}")}\n---\n{kind: Secret, apiVersion: v1, metadata: {name: hf}, stringData: {token: t}}`;
  expect(read(text, { secretDirs: [["keys", secret]] }).secrets).toEqual({
    hf: { token: Buffer.from("t") },
    keys: { alice: Buffer.from("{}") },
  });
});

test("--set wins over the environment", () => {
  const settings = [{ path: ["spec", "instances"], value: 4, from: "--set instances" }];
  const env = { APEX_LLM_INSTANCES: "3" };
  const none = { secretDirs: new Map(), volumes: new Map() };
  const { plan } = define(pool("{backend: stub}"), { source: "pool.yaml", env, cwd: dir, settings, ...none });
  expect(plan.variants[0]?.instances).toHaveLength(4);
});

test("the environment wins over the file", () => {
  const { plan } = read(pool("{backend: stub, instances: 2}"), { env: { APEX_LLM_INSTANCES: "3" } });
  expect(plan.variants[0]?.instances).toHaveLength(3);
});
