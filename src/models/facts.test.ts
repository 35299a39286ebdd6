import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { makeGguf } from "../../test/support/gguf.ts";
import { makeSafetensors } from "../../test/support/safetensors.ts";
import { tempDir } from "../../test/support/temp-dir.ts";
import { factsOf } from "./facts.ts";

const folder = { path: "org/m/snapshot", bytes: 123 };

/** Facts of a folder of these files. */
async function snapshot(files: Record<string, Buffer | string>) {
  const cache = await tempDir();
  const path = join(cache, folder.path);
  await mkdir(path, { recursive: true });
  for (const [name, content] of Object.entries(files)) await writeFile(join(path, name), content);
  return factsOf({ path, bytes: folder.bytes }, cache);
}

test("a GGUF's layers, heads and KV bytes are read from its header", async () => {
  const cache = await tempDir();
  const path = join(cache, "m.gguf");
  await writeFile(path, makeGguf());
  // Two layers of two KV heads of 4, key and value, 16 bit.
  expect(await factsOf({ path, bytes: 9, sha256: "ab" }, cache)).toEqual({
    path: "m.gguf",
    format: "gguf",
    bytes: 9,
    sha256: "ab",
    layers: 2,
    kvHeads: 2,
    headSize: 4,
    kvBytesPerToken: 2 * 2 * 4 * 2 * 2,
  });
});

test("of a folder, linear layers are told from what stays at 16 bit, over all its files", async () => {
  const config = { num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, hidden_size: 64 };
  const facts = await snapshot({
    "model-00001-of-00002.safetensors": makeSafetensors({
      "model.embed_tokens.weight": ["BF16", [100, 64]],
      "model.layers.0.self_attn.q_proj.weight": ["BF16", [64, 64]],
      "model.layers.0.input_layernorm.weight": ["F32", [64]],
    }),
    "model-00002-of-00002.safetensors": makeSafetensors({
      "model.layers.1.mlp.up_proj.weight": ["F32", [128, 64]],
      "lm_head.weight": ["BF16", [100, 64]],
      "already.quantized.weight": ["U8", [10, 10]],
    }),
    "config.json": JSON.stringify(config),
  });
  expect(facts).toEqual({
    ...folder,
    format: "safetensors",
    layers: 2,
    kvHeads: 2,
    headSize: 16,
    kvBytesPerToken: 2 * 2 * 16 * 2 * 2,
    linearParameters: 64 * 64 + 128 * 64,
    otherBytes: (100 * 64 + 64 + 100 * 64) * 2 + 100,
  });
});

test.each([
  { name: "a head size of its own", config: { head_dim: 128 }, want: 128 },
  { name: "no KV heads of its own", config: { num_key_value_heads: undefined }, want: 16 },
  { name: "the language part of a model of several inputs", config: {}, nested: true, want: 16 },
])("a configuration with $name is understood", async ({ config, nested, want }) => {
  const text = { num_hidden_layers: 1, num_attention_heads: 4, num_key_value_heads: 4, hidden_size: 64, ...config };
  const facts = await snapshot({
    "config.json": JSON.stringify(nested ? { text_config: text, vision_config: {} } : text),
  });
  expect(facts).toMatchObject({ kvHeads: 4, headSize: want });
});

test("without a configuration that tells, sizes of the KV cache stay unknown", async () => {
  const facts = await snapshot({ "m.safetensors": makeSafetensors({ "w.weight": ["F16", [2, 2]] }) });
  expect(facts).toEqual({ ...folder, format: "safetensors", linearParameters: 4, otherBytes: 0 });
});

test.each([
  Buffer.from("short"),
  Buffer.alloc(100, 0xff),
  Buffer.concat([Buffer.from([9, 0, 0, 0, 0, 0, 0, 0]), Buffer.from("not json!")]),
])("a damaged header is said to be one", async (content) => {
  await expect(snapshot({ "m.safetensors": content })).rejects.toMatchObject({ reason: "ModelInvalid" });
});
