import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { StartError } from "../../src/api/instance.ts";
import { type GgufHeader, HeaderIncomplete, HeaderInvalid, type MetadataValue, parseHeader } from "./gguf.ts";

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

const FIRST_READ = 4 * 2 ** 20;
const LARGEST_HEADER = 512 * 2 ** 20;
/** LLAMA_MAX_LAYERS of the engine. */
const MOST_LAYERS = 512;
const SAMPLES = 64;
const SAMPLE_BYTES = 4096;
/** Values of `tokenizer.ggml.token_type`. */
const ORDINARY = 1;
const CONTROL = 3;
/** For architectures whose metadata does not tell: more than any known model needs. */
const KV_BYTES_FALLBACK = 2 ** 20;
const AGAIN = "fetch the model again";

/** Checks what can be checked without the engine. Throws StartError `ModelNotFound` or `ModelInvalid`, with the cure. */
export async function readModelFile(path: string): Promise<ModelFile> {
  const file = await openModel(path);
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

async function openModel(path: string): Promise<FileHandle> {
  try {
    const file = await open(path, "r");
    const info = await file.stat();
    if (info.isFile()) return file;
    await file.close();
    throw invalid(path, `it is ${info.isDirectory() ? "a folder: name the .gguf file in it" : "not a plain file"}`);
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code === "ENOENT" || code === "ENOTDIR")
      throw new StartError("ModelNotFound", `there is no model file ${path}`);
    if (code === "EACCES" || code === "EPERM") {
      throw new StartError("ModelNotFound", `the model file ${path} may not be read (${code}): change its permissions`);
    }
    throw error;
  }
}

async function readHeader(file: FileHandle, path: string, size: number): Promise<{ header: GgufHeader; raw: Buffer }> {
  for (let want = FIRST_READ; ; want *= 4) {
    const raw = await readAt(file, 0, Math.min(want, size));
    try {
      return { header: parseHeader(raw), raw };
    } catch (error) {
      if (error instanceof HeaderInvalid) throw invalid(path, describe(raw) ?? error.message);
      if (!(error instanceof HeaderIncomplete)) throw error;
      if (raw.length < want) throw invalid(path, describe(raw) ?? `it is cut off in its header: ${AGAIN}`);
      if (want >= LARGEST_HEADER) throw invalid(path, `its header is damaged: ${AGAIN}`);
    }
  }
}

/** What else the file is, if that can be told. */
function describe(raw: Buffer): string | undefined {
  const start = raw.subarray(0, 64).toString("latin1");
  if (raw.length === 0) return `it is empty: ${AGAIN}`;
  if (start.startsWith("version https://git-lfs"))
    return "it is a Git LFS pointer: fetch the file itself (git lfs pull)";
  if (/^\s*<(!doctype|html|\?xml)/i.test(start)) return `it is a web page: check the address and ${AGAIN}`;
  if (start.startsWith("PK\x03\x04"))
    return "it is a ZIP archive (a wheel or a PyTorch file): give the .gguf file in it";
  if (/^.{8}\{"/s.test(start)) return "it is a safetensors file: convert it to GGUF";
  return start.startsWith("GGUF") ? undefined : "it is not a GGUF file";
}

function checkTensors(header: GgufHeader, path: string, size: number): void {
  if (header.tensors.length === 0) throw invalid(path, "it holds no tensors, only metadata");
  let end = 0;
  for (const t of header.tensors) end = Math.max(end, header.dataStart + t.offset + (t.bytes ?? 0));
  if (end > size) throw invalid(path, `it is cut off: ${size} bytes of at least ${end}: ${AGAIN}`);
  const architecture = header.metadata.get("general.architecture");
  if (typeof architecture !== "string") throw invalid(path, "it does not name its architecture");
  // The engine aborts the process on these.
  const layers = Number(header.metadata.get(`${architecture}.block_count`));
  if (!(layers >= 1 && layers <= MOST_LAYERS)) throw invalid(path, `it claims ${layers} layers: ${AGAIN}`);
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
    kvBytesPerToken: kvBytesPerToken(metadata),
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

/** Layers x KV heads x (key + value length) x 2 bytes. */
function kvBytesPerToken(metadata: ReadonlyMap<string, MetadataValue>): number {
  const architecture = String(metadata.get("general.architecture"));
  const get = (key: string) => metadata.get(`${architecture}.${key}`);
  const layers = Number(get("block_count"));
  const heads = get("attention.head_count");
  const kvHeads = get("attention.head_count_kv") ?? heads;
  const headSize = Number(get("embedding_length")) / Number(Array.isArray(heads) ? heads[0] : heads);
  const keyAndValue =
    Number(get("attention.key_length") ?? headSize) + Number(get("attention.value_length") ?? headSize);
  const allHeads = Array.isArray(kvHeads)
    ? kvHeads.reduce((sum: number, n) => sum + Number(n), 0)
    : layers * Number(kvHeads);
  const bytes = allHeads * keyAndValue * 2;
  return Number.isFinite(bytes) && bytes > 0 ? bytes : KV_BYTES_FALLBACK;
}

const isTextList = (value: MetadataValue | undefined): value is readonly string[] =>
  Array.isArray(value) && value.length > 0 && typeof value[0] === "string";

async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  let got = 0;
  while (got < length) {
    const { bytesRead } = await file.read(buffer, got, length - got, position + got);
    if (bytesRead === 0) break;
    got += bytesRead;
  }
  return buffer.subarray(0, got);
}

/** For failures of the native loader too. */
export function invalid(path: string, why: string, cause?: unknown): StartError {
  return new StartError(
    "ModelInvalid",
    `the model file ${path} cannot be used: ${why}`,
    cause === undefined ? {} : { cause },
  );
}
