import { describe, expect, test } from "vitest";
import type { ModelFacts } from "../api/model-facts.ts";
import { type MemoryQuestion, memoryNeed } from "./memory.ts";

/** Llama 3.1 8B: 32 layers of 4096, 8 KV heads of 128, a vocabulary of 128256, input and output embeddings apart. */
const LLAMA: ModelFacts = {
  path: "m",
  format: "safetensors",
  bytes: 16_060_522_496,
  layers: 32,
  kvHeads: 8,
  headSize: 128,
  kvBytesPerToken: 131_072,
  linearParameters: 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096),
  otherBytes: 2 * (2 * 128_256 * 4096 + 65 * 4096),
};
const GIB = 2 ** 30;
const need = (more: Partial<MemoryQuestion>) =>
  memoryNeed({
    backend: "hf-cuda",
    quantization: "nf4",
    facts: LLAMA,
    statedBytes: undefined,
    contextTokens: 4096,
    sessions: 4,
    ...more,
  });

describe("an instance of Llama 3.1 8B", () => {
  test.each([
    // 6.98 billion parameters of linear layers at just over half a byte, and 2.1 GB of embeddings that stay.
    { quantization: "nf4", gib: 5.3 },
    { quantization: "int8", gib: 8.5 },
    { quantization: "none", gib: 15.0 },
  ])("takes $gib GiB for its weights at $quantization, embeddings unquantized", ({ quantization, gib }) => {
    expect((need({ quantization })?.weights ?? 0) / GIB).toBeCloseTo(gib, 1);
  });

  test("takes a KV cache of its context for each session, and a CUDA context", () => {
    const known = need({});
    expect(known?.kv).toBe(2 * GIB);
    expect(known?.context).toBe(GIB / 2);
    expect(known?.total).toBe((known?.weights ?? 0) + 2.5 * GIB);
    expect(need({ contextTokens: 8192, sessions: 8 })?.kv).toBe(8 * GIB);
  });
});

test("measured on a CPU: SmolLM2 135M takes 104 MiB at NF4 and 256 MiB at 16 bit", () => {
  const facts = { ...LLAMA, linearParameters: 106_168_320, otherBytes: 2 * (49_152 * 576 + 61 * 576) };
  // The measure counts no scales.
  expect((need({ facts })?.weights ?? 0) / 2 ** 20).toBeCloseTo(104.8 + 1.6, 0);
  expect((need({ facts, quantization: "none" })?.weights ?? 0) / 2 ** 20).toBeCloseTo(256.6, 0);
});

test("a GGUF takes what its file does, whatever its author calls the quantization", () => {
  const { linearParameters: _, otherBytes: __, ...gguf } = { ...LLAMA, format: "gguf" as const, bytes: 4_920_000_000 };
  expect(need({ backend: "llama-cpp", facts: gguf, quantization: "Q4_K_M" })?.weights).toBe(4_920_000_000);
});

test("what the author says of the weights counts; without the model's shape the KV cache is not counted", () => {
  expect(need({ statedBytes: 7 * GIB })).toMatchObject({ weights: 7 * GIB, kv: 2 * GIB });
  expect(need({ statedBytes: 7 * GIB, facts: undefined })).toEqual({
    weights: 7 * GIB,
    kv: undefined,
    context: GIB / 2,
    total: 7.5 * GIB,
  });
});

test("nothing is known of nothing, and a stub needs nothing", () => {
  expect(need({ facts: undefined })).toBeUndefined();
  expect(need({ backend: "stub" })).toBeUndefined();
});
