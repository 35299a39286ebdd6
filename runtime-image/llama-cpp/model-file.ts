import { createHash } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import type { GgufHeader, MetadataValue } from "../../src/models/gguf.ts";
import { FETCH_AGAIN, invalid, openGguf, readAt, readHeader, sizesOf } from "../../src/models/gguf-file.ts";

/** What this runtime needs to know of a model before and beside the engine. */
export interface ModelFile {
  path: string;
  bytes: number;
  /** Names the content: hash of header, size and samples of the weights. Equal on every machine that has the same file. */
  digest: string;
  /** Jinja source; absent for models that cannot chat. */
  chatTemplate?: string;
  /** Texts that the tokenizer turns into control tokens, such as `<|im_end|>`. */
  controlTokens: ReadonlySet<string>;
  /** Most bytes of text that one token can stand for; Infinity where the tokenizer drops text. */
  longestTokenBytes: number;
  /** KV cache of one token at 16 bit. */
  kvBytesPerToken: number;
}

/** LLAMA_MAX_LAYERS of the engine. */
const MOST_LAYERS = 512;
const SAMPLES = 64;
const SAMPLE_BYTES = 4096;
/** Values of `tokenizer.ggml.token_type`. */
const ORDINARY = 1;
const CONTROL = 3;
/** For architectures whose metadata does not tell: more than any known model needs. */
const KV_BYTES_FALLBACK = 2 ** 20;

/** Checks what can be checked without the engine. Throws StartError `ModelNotFound` or `ModelInvalid`, with the cure. */
export async function readModelFile(path: string): Promise<ModelFile> {
  const file = await openGguf(path);
  try {
    const { size: bytes } = await file.stat();
    const { header, raw } = await readHeader(file, path, bytes);
    checkTensors(header, path, bytes);
    const digest = await digestOf(file, raw.subarray(0, header.dataStart), bytes);
    return { path, bytes, digest, ...facts(header.metadata, path) };
  } finally {
    await file.close();
  }
}

function checkTensors(header: GgufHeader, path: string, size: number): void {
  if (header.tensors.length === 0) throw invalid(path, "it holds no tensors, only metadata");
  let end = 0;
  for (const t of header.tensors) end = Math.max(end, header.dataStart + t.offset + (t.bytes ?? 0));
  if (end > size) throw invalid(path, `it is cut off: ${size} bytes of at least ${end}: ${FETCH_AGAIN}`);
  const architecture = header.metadata.get("general.architecture");
  if (typeof architecture !== "string") throw invalid(path, "it does not name its architecture");
  // The engine aborts the process on these.
  const layers = Number(header.metadata.get(`${architecture}.block_count`));
  if (!(layers >= 1 && layers <= MOST_LAYERS)) throw invalid(path, `it claims ${layers} layers: ${FETCH_AGAIN}`);
}

async function digestOf(file: FileHandle, header: Buffer, size: number): Promise<string> {
  const hash = createHash("sha256").update(`${size}\n`).update(header);
  for (let i = 0; i < SAMPLES; i++) {
    const at = header.length + Math.floor(((size - header.length) / SAMPLES) * i);
    hash.update(await readAt(file, at, SAMPLE_BYTES));
  }
  return hash.digest("hex");
}

function facts(
  metadata: ReadonlyMap<string, MetadataValue>,
  path: string,
): Omit<ModelFile, "path" | "bytes" | "digest"> {
  const tokens = metadata.get("tokenizer.ggml.tokens");
  const types = metadata.get("tokenizer.ggml.token_type");
  if (!isTextList(tokens)) throw invalid(path, "it holds no tokenizer");
  const control = Array.isArray(types) ? tokens.filter((text, i) => types[i] === CONTROL && text.length > 1) : [];
  const template = metadata.get("tokenizer.chat_template");
  // These two keep every byte of a text; others normalise it first.
  const keepsBytes = ["gpt2", "llama"].includes(String(metadata.get("tokenizer.ggml.model")));
  return {
    ...(typeof template === "string" && { chatTemplate: template }),
    controlTokens: new Set(control),
    longestTokenBytes: keepsBytes ? longestBytes(tokens, types) : Number.POSITIVE_INFINITY,
    kvBytesPerToken: sizesOf(metadata)?.kvBytesPerToken ?? KV_BYTES_FALLBACK,
  };
}

/** A byte-level BPE writes each byte of an ordinary token as one character. */
function longestBytes(tokens: readonly string[], types: MetadataValue | undefined): number {
  const byteLevel = tokens.includes("\u0120"); // how a space is written there
  let longest = 1;
  for (const [i, token] of tokens.entries()) {
    const ordinary = byteLevel && Array.isArray(types) && types[i] === ORDINARY;
    longest = Math.max(longest, ordinary ? token.length : Buffer.byteLength(token));
  }
  return longest;
}

const isTextList = (value: MetadataValue | undefined): value is readonly string[] =>
  Array.isArray(value) && value.length > 0 && typeof value[0] === "string";
