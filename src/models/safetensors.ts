import { open, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { StartError } from "../api/instance.ts";
import { FETCH_AGAIN, type KvSizes, readAt } from "./gguf-file.ts";

/** The weights of a folder of `.safetensors` files (https://huggingface.co/docs/safetensors), as hf-cuda quantizes them. */
export interface SafetensorsSizes {
  /** Parameters of linear layers, which a quantization makes smaller. */
  linearParameters: number;
  /** Everything else, at 16 bit: embeddings, output layer, norms, and what is stored quantized already. */
  otherBytes: number;
}

/** Headers are small; what claims more than this many bytes is damage. */
const LARGEST_HEADER = 100 * 2 ** 20;
/** Names of weights that are matrices and stay as they are: input and output embeddings. */
const EMBEDDING = /embed|(^|[.])(wte|wpe|lm_head|shared|output)[.]/;
const FLOAT = /^(F64|F32|F16|BF16)$/;

interface Tensor {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

/** Reads the headers of all files. Throws StartError `ModelInvalid` when one is damaged. */
export async function readSafetensors(folder: string): Promise<SafetensorsSizes> {
  const names = (await readdir(folder)).filter((name) => name.endsWith(".safetensors"));
  const sizes = { linearParameters: 0, otherBytes: 0 };
  for (const name of names) {
    for (const [tensor, { dtype, shape, data_offsets }] of await tensorsOf(join(folder, name))) {
      const elements = shape.reduce((product, n) => product * n, 1);
      if (!FLOAT.test(dtype)) sizes.otherBytes += data_offsets[1] - data_offsets[0];
      else if (shape.length === 2 && tensor.endsWith(".weight") && !EMBEDDING.test(tensor))
        sizes.linearParameters += elements;
      else sizes.otherBytes += elements * 2;
    }
  }
  return sizes;
}

async function tensorsOf(path: string): Promise<[string, Tensor][]> {
  const damaged = (cause?: unknown) =>
    new StartError("ModelInvalid", `the header of ${path} is damaged: ${FETCH_AGAIN}`, { cause });
  await using file = await open(path, "r");
  const start = await readAt(file, 0, 8);
  const length = start.length === 8 ? Number(start.readBigUInt64LE()) : 0;
  if (length < 2 || length > LARGEST_HEADER) throw damaged();
  try {
    const header = JSON.parse((await readAt(file, 8, length)).toString("utf8")) as Record<string, Tensor>;
    return Object.entries(header).filter(([name]) => name !== "__metadata__");
  } catch (error) {
    throw damaged(error);
  }
}

/** Sizes of the KV cache from the model's `config.json`; undefined where it does not tell. */
export async function readKvSizes(folder: string): Promise<KvSizes | undefined> {
  let config: Record<string, unknown>;
  try {
    config = JSON.parse(await readFile(join(folder, "config.json"), "utf8")) as Record<string, unknown>;
  } catch {
    return undefined;
  }
  // Models of several kinds of input keep the language model's part in one of its own.
  const text = (config.text_config ?? config) as Record<string, unknown>;
  const number = (...names: string[]) => Number(names.map((name) => text[name]).find((value) => value != null));
  const layers = number("num_hidden_layers", "n_layer");
  const heads = number("num_attention_heads", "n_head");
  const kvHeads = number("num_key_value_heads", "num_attention_heads", "n_head");
  const ownSize = number("head_dim");
  const headSize = ownSize > 0 ? ownSize : number("hidden_size", "n_embd") / heads;
  const kvBytesPerToken = layers * kvHeads * headSize * 2 * 2;
  if (!(Number.isFinite(kvBytesPerToken) && kvBytesPerToken > 0)) return undefined;
  return { layers, kvHeads, headSize, kvBytesPerToken };
}
