/** A GGUF file of two layers that no engine would run, but whose header is whole. */
export function makeGguf(
  options: { tensors?: number; tokenizer?: boolean; architecture?: boolean; layers?: number } = {},
): Buffer {
  const { tensors = 1, tokenizer = true, architecture = true, layers = 2 } = options;
  const metadata: Buffer[] = [
    ...(architecture ? [entry("general.architecture", text("llama"))] : []),
    ...["block_count", "embedding_length", "attention.head_count", "attention.head_count_kv"].map((key, i) =>
      entry(`llama.${key}`, number([layers, 8, 2, 2][i] ?? 0)),
    ),
    ...(tokenizer
      ? [
          entry("tokenizer.ggml.model", text("gpt2")),
          entry("tokenizer.ggml.tokens", list(8, ["a", "\u0120b", "<|im_start|>", "<|im_end|>"].map(bytes))),
          entry("tokenizer.ggml.token_type", list(5, [1, 1, 3, 3].map(u32))),
          entry("tokenizer.chat_template", text("{{ messages[0].content }}")),
        ]
      : []),
  ];
  const table = Array.from({ length: tensors }, (_, i) =>
    Buffer.concat([bytes(`t${i}`), u32(1), u64(64), u32(0), u64(i * 256)]),
  );
  const header = Buffer.concat([
    Buffer.from("GGUF"),
    u32(3),
    u64(tensors),
    u64(metadata.length),
    ...metadata,
    ...table,
  ]);
  const padding = Buffer.alloc((32 - (header.length % 32)) % 32);
  return Buffer.concat([header, padding, Buffer.alloc(256 * tensors, 1)]);
}

function u32(value: number): Buffer {
  const out = Buffer.alloc(4);
  out.writeUInt32LE(value);
  return out;
}

function u64(value: number): Buffer {
  const out = Buffer.alloc(8);
  out.writeBigUInt64LE(BigInt(value));
  return out;
}

const bytes = (value: string): Buffer => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);
const text = (value: string): Buffer => Buffer.concat([u32(8), bytes(value)]);
const number = (value: number): Buffer => Buffer.concat([u32(4), u32(value)]);
const list = (type: number, items: Buffer[]): Buffer => Buffer.concat([u32(9), u32(type), u64(items.length), ...items]);
const entry = (key: string, value: Buffer): Buffer => Buffer.concat([bytes(key), value]);
